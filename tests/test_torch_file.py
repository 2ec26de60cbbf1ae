from __future__ import annotations

import collections
import io
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from acnet_pl import PlainConv
from acnet_pl.backbones import Torchvision
from acnet_pl.torch_file import load_plain
from acnet_pl.weight_values import check_values

STORAGE = torch.zeros(1)


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def shared(levels: int) -> list[Any]:
    content: list[Any] = ["shared"]
    for _ in range(levels):
        content = [content, content]
    return content


def containing_itself(kind: type) -> Any:
    inner: list[Any] = []
    inner.append({"a": inner} if kind is dict else inner)
    return inner


def nested(depth: int) -> list[Any]:
    content: list[Any] = []
    for _ in range(depth):
        content = [content]
    return content


def shared_tuple(levels: int) -> tuple[Any, ...]:
    content: tuple[Any, ...] = (1,)
    for _ in range(levels):
        content = (content, content)
    return content


def sized(shape: tuple[int, ...], stride: tuple[int, ...]) -> Call:
    """A tensor of this shape over the memory of one number."""
    _, (storage, *_) = STORAGE.__reduce_ex__(2)
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, stride, False, collections.OrderedDict())


HUGE = (2**20, 2**20)
REFUSED: dict[str, tuple[Any, str]] = {
    "bytearray": (Call(bytearray, 3 * 2**30), "it calls builtins.bytearray|__builtin__.bytearray"),
    "a tensor by its size": (Call(torch.FloatTensor, 2**20, 2**20), r"it calls torch\.FloatTensor"),
    "a storage by its size": (Call(torch.UntypedStorage, 2**40), r"it calls torch\.storage\.UntypedStorage"),
    "a tensor larger than its storage": (sized(HUGE, (2**20, 1)), r"shape \(1048576, 1048576\) is larger than"),
    "a tensor of one number": (sized(HUGE, (0, 0)), r"shape \(1048576, 1048576\) is larger than"),
    "a shape that is no shape": (sized(([0], 2**40), (1, 1)), "shape is not of up to 64 integers"),  # type: ignore[arg-type]
    "a copy of such a tensor": (
        Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, STORAGE, torch.float64, "cpu", False),
        "_rebuild_device_tensor_from_cpu_tensor, which could take any memory",
    ),
    "a set of a tensor's elements": (Call(set, STORAGE), "a set of a tensor"),
    "a counter of a tensor's elements": (Call(collections.Counter, STORAGE), "of something other than a dict"),
    "a key whose hash never ends": ({shared_tuple(2): 1}, "one of its keys is nested"),
    "a list in itself": (containing_itself(list), "its content contains itself"),
    "a dict in itself": (containing_itself(dict), "its content contains itself"),
    "a list that is shared": (shared(60), "far larger than the file"),
    "a text that is shared": ([["x" * 1000]] * 10_000, "far larger than the file"),
    "a deep list": (nested(150), "nested deeper than 100 levels"),
}  # fmt: skip


def saved(content: Any, former: bool = False) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not former)
    return file


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_take_memory_or_never_end_is_refused(what: str, former: bool) -> None:
    content, message = REFUSED[what]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, pickle.UnpicklingError), match=message):
        load_plain(saved({"state_dict": content}, former), former=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize("former", [False, True])
def test_what_checkpoints_hold_is_loaded(former: bool) -> None:
    marked = torch.arange(3.0)
    marked.mark = "as torch.compile marks them"  # type: ignore[attr-defined]
    common = [1, 2]
    content: dict[Any, Any] = {
        "plain": [None, True, -1, 2**80, 1.5, "text", b"bytes", (1, (2,)), {3}, 1j, [common, common]],
        ("a", 1): collections.OrderedDict(x=collections.Counter("abca")),
        "torch": [torch.Size([2, 3]), torch.device("cpu"), torch.float16],
        "tensors": [
            torch.arange(6).view(2, 3).T,
            torch.zeros(0, 5),
            marked,
            torch.ones(2, dtype=torch.float16 if former else torch.uint16),
        ],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state_dict": torch.nn.BatchNorm2d(3).state_dict(),
    }
    loaded = load_plain(saved(content, former), former=True)
    assert list(loaded) == list(content)
    for name in ("plain", ("a", 1), "torch"):
        assert loaded[name] == content[name]
    assert all(torch.equal(*pair) for pair in zip(loaded["tensors"], content["tensors"], strict=True))
    assert loaded["tensors"][2].mark == marked.mark  # type: ignore[attr-defined]
    assert torch.equal(loaded["parameter"], content["parameter"])
    assert loaded["state_dict"]._metadata == content["state_dict"]._metadata


def test_a_record_is_read_once(tmp_path: Path) -> None:
    """Records that lie over one another would be unpacked to many times the file."""
    path = tmp_path / "last.ckpt"
    torch.save({"a": torch.zeros(10_000), "b": torch.zeros(10_000)}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = (record for record in archive.infolist() if record.file_size == 40_000)
    where = content.rindex(second.filename.encode()) - 46  # its entry in the list at the end of the archive
    content[where + 42 : where + 46] = first.header_offset.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        load_plain(path)


def test_a_tensor_is_within_its_record() -> None:
    """What lies behind it is memory of something else; not every version of torch looks."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(saved({"a": torch.zeros(4), "b": torch.zeros(2000)})) as source,
        zipfile.ZipFile(file, "w") as to,
    ):
        for record in source.infolist():
            program = source.read(record)
            if record.filename.endswith("data.pkl"):
                assert program.count(b"K\x04t") == 1  # four numbers
                program = program.replace(b"K\x04t", b"K\x05t")
            to.writestr(record, program)
    with pytest.raises(pickle.UnpicklingError, match="it asks for 5 numbers of a shorter record"):
        load_plain(file)


def test_a_compressed_file_of_weights_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(saved({"a": torch.zeros(10**6)})) as source, zipfile.ZipFile(path, "w", 8) as target:
        for record in source.infolist():
            target.writestr(record, source.read(record), 8)
    with pytest.raises(ValueError, match=r"weights\.pth is no file of weights .*compressed, which no checkpoint is"):
        Torchvision(PlainConv(), 5, name="resnet18", weights_file=str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(4, 3, dtype=torch.int8), "weight is torch.int8, expected torch.float32"),
        (torch.full((4, 3), torch.nan), "weight holds NaN or infinite values"),
        (torch.full((4, 3), torch.inf), "weight holds NaN or infinite values"),
    ],
)
def test_weights_are_finite_numbers(values: torch.Tensor, message: str) -> None:
    layer = torch.nn.Linear(3, 4)
    check_values(layer, {"weight": torch.ones(4, 3, dtype=torch.float16), "more": values})
    with pytest.raises(ValueError, match=message):
        check_values(layer, {"weight": values})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_file_of_weights_that_are_no_numbers_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    weights = torchvision.models.resnet18(num_classes=5).state_dict()
    torch.save({**weights, "conv1.weight": torch.full_like(weights["conv1.weight"], value)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth holds no weights .*conv1\.weight holds NaN or infinite values"):
        Torchvision(PlainConv(), 5, name="resnet18", weights_file=str(path))
