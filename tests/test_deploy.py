from __future__ import annotations

import json
import re
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from acnet_pl import ACBConv, PlainConv, fused_info, load_fused
from acnet_pl.backbones import CifarQuick, ResNetCifar
from acnet_pl.checkpoint import CheckpointError, preprocessing_of
from acnet_pl.deploy import save_fused
from acnet_pl.modules.architecture import describe
from acnet_pl.nn import fuse_model

fuzz = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def trained(kind: Callable[..., nn.Module], conv: Any) -> nn.Module:
    torch.manual_seed(0)
    network = kind(conv, 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval()


def write(path: Path, kind: Callable[..., nn.Module] = CifarQuick, conv: Any = None, **more: Any) -> nn.Module:
    conv = conv or ACBConv()
    fused = fuse_model(trained(kind, conv))
    save_fused(fused, path, {"backbone": describe(kind), "conv": describe(conv), "num_classes": 10, **more})
    return fused


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "fused.safetensors"
    write(path)
    return path


@pytest.mark.parametrize("kind", [CifarQuick, partial(ResNetCifar, depth=8)])
@pytest.mark.parametrize("conv", [ACBConv(position="border"), PlainConv()])
def test_what_is_written_is_what_is_loaded(kind: Callable[..., nn.Module], conv: Any, tmp_path: Path) -> None:
    path = tmp_path / "fused.safetensors"
    fused = write(path, kind, conv, preprocessing={"mean": [0.5]})
    images = torch.randn(2, 3, 32, 32)
    loaded = load_fused(path)
    assert not loaded.training
    assert torch.equal(loaded(images), fused(images))
    assert torch.allclose(loaded(images), trained(kind, conv)(images), rtol=1e-3, atol=1e-4)
    assert fused_info(path)["preprocessing"] == {"mean": [0.5]}
    assert "format" not in fused_info(path)


def test_the_folder_of_a_run_stands_for_its_fused_file(whole: Path) -> None:
    loaded, expected = (load_fused(path).state_dict() for path in (whole.parent, whole))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert fused_info(str(whole.parent)) == fused_info(whole)


def test_the_architecture_is_described_for_the_caller(tmp_path: Path) -> None:
    fused = fuse_model(trained(partial(ResNetCifar, depth=8), ACBConv()))
    parts: dict[str, Any] = {"backbone": partial(ResNetCifar, depth=8), "conv": ACBConv(), "num_classes": 10}
    path = save_fused(fused, tmp_path / "fused.safetensors", {"accuracy": 0.9}, **parts, inputs=torch.zeros(1, 3, 8, 8))
    assert fused_info(path)["backbone"]["init_args"] == {"depth": 8}
    assert fused_info(path)["inputs"] == {"tensor": "float32", "shape": [1, 3, 8, 8]}
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_fused(path)(images), fused(images))
    with pytest.raises(ValueError, match="num_classes not given"):
        save_fused(fused, path, backbone=ResNetCifar, conv=ACBConv())


def test_a_network_without_a_description_is_given(tmp_path: Path) -> None:
    fused = fuse_model(trained(CifarQuick, ACBConv()))
    path = save_fused(fused, tmp_path / "fused.safetensors")
    with pytest.raises(ValueError, match=r"does not say how its network is built.*into=MyNet"):
        load_fused(path)
    images = torch.randn(2, 3, 32, 32)
    for conv in (ACBConv(), PlainConv()):  # both fuse to one structure
        network = CifarQuick(conv, 10)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert torch.equal(load_fused(path, into=network)(images), fused(images))
        assert network.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(ValueError, match=r"does not fit.* a CifarQuick: 2 of its 10 tensors have .* \(11, 64\); build"):
        load_fused(path, into=CifarQuick(ACBConv(), 11))


def test_blocks_are_refused_in_a_file_of_a_fused_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not fused: `.*` and 1 more; give fuse_model\(network.eval\(\)\)"):
        save_fused(CifarQuick(ACBConv(), 10).eval(), tmp_path / "fused.safetensors")
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """Decides on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if x.mean() > 0 else -x


def as_part(network: nn.Module) -> nn.Module:
    return nn.ModuleDict({"net": network})


X = torch.zeros(1, 3, 8, 8)
PLAIN = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


@pytest.mark.parametrize(
    ("written", "into", "cause"),
    [
        (lambda: fuse_model(nn.Sequential(nn.ReLU(), PLAIN[0])), PLAIN, "of another architecture"),
        (lambda: fuse_model(as_part(PLAIN)), PLAIN, "within a module, as `net`: give such a module"),
        (lambda: fuse_model(PLAIN), as_part(PLAIN), "the network given holds it as `net`: give that part alone"),
        (lambda: nn.Sequential(OrderedDict(square=PLAIN[0])), PLAIN, "written before it was fused"),
        (lambda: fuse_model(Branching().eval(), X), Branching(), r"save_fused\(\.\.\., inputs=example_input\)"),
    ],
)
def test_the_likely_cause_is_told_of_weights_that_have_no_place(
    written: Callable[[], nn.Module], into: nn.Module, cause: str, tmp_path: Path
) -> None:
    path = save_fused(written(), tmp_path / "fused.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an example input is missing
        with pytest.raises(ValueError, match=f"does not fit the network that is given.*{cause}") as error:
            load_fused(path, into=into)
    assert len(str(error.value)) < 600


def test_a_file_says_with_what_input_its_network_was_fused(tmp_path: Path) -> None:
    fused = fuse_model(Branching().eval(), X)
    loaded = load_fused(save_fused(fused, tmp_path / "fused.safetensors", inputs=X), into=Branching())
    assert loaded.state_dict().keys() == fused.state_dict().keys() == {"conv.weight", "conv.bias"}
    assert torch.equal(loaded(X), fused(X))


def test_a_file_of_another_package_is_refused_with_the_way_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(PLAIN.state_dict(), path)
    way_out = r"load_file\(.*other.*\), and .* fuse_model\(MyNet\(\)\.eval\(\)\)\.load_state_dict\(weights\)"
    with pytest.raises(ValueError, match=f"is not a file of acnet_pl.*{way_out}"):
        load_fused(path, into=PLAIN)


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for number in range(8):
        write(tmp_path / f"{number}.safetensors", preprocessing={"mean": [0.5], "std": [0.25]})
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_a_failed_write_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fused.safetensors"
    write(path)
    before = path.read_bytes()

    def full(tensors: Any, filename: Path, metadata: Any) -> None:
        filename.write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acnet_pl.deploy.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_in_half_precision_are_taken_over(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    metadata = {"acnet_pl": json.dumps({"format": "acnet_pl.fused/1", **fused_info(whole)})}
    save_file({name: tensor.half() for name, tensor in load_file(whole).items()}, path, metadata)
    assert next(load_fused(path).parameters()).dtype == torch.float16


class TestBadFiles:
    def forge(self, path: Path, **changes: Any) -> Path:
        tensors, info = changes.pop("tensors", None) or {"x": torch.zeros(1)}, changes.pop("info", None)
        text = changes.pop("text", None) or json.dumps({"format": "acnet_pl.fused/1", **(info or {})})
        save_file(tensors, path, {"acnet_pl": text})
        return path

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[1]", "is not a file of acnet_pl"),
            ("{}", "is not a file of acnet_pl"),
            ('{"format": "acnet_pl.fused/2"}', r"format 'acnet_pl\.fused/2'"),
        ],
    )
    def test_metadata(self, text: str, message: str, tmp_path: Path) -> None:
        path = self.forge(tmp_path / "forged.safetensors", text=text)
        for read in (fused_info, load_fused):
            with pytest.raises(ValueError, match=message):
                read(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"backbone": {"class_path": "os.spawnv", "init_args": {}}}, "is not a backbone"),
            ({"backbone": {"class_path": "trojan_horse.Net"}}, "is not of a package that files may name"),
            (
                {"backbone": {"class_path": "acnet_pl.backbones.CifarQuick", "init_args": {"depth": 3}}},
                "cannot be built",
            ),
            ({"backbone": "acnet_pl.backbones.CifarQuick"}, "expected a class_path"),
            ({"backbone": None}, "expected a class_path"),
            ({"conv": {"class_path": "acnet_pl.backbones.CifarQuick"}}, "expected a ConvBuilder"),
            ({"conv": {"class_path": "acnet_pl.nn.ACBConv", "init_args": [1]}}, "expected names and values"),
            ({"num_classes": "10"}, "`num_classes` must be an int"),
            ({"num_classes": 11}, "does not fit the network it describes"),
        ],
    )
    def test_descriptions(self, changes: dict[str, Any], message: str, whole: Path, tmp_path: Path) -> None:
        path = self.forge(
            tmp_path / "forged.safetensors", tensors=load_file(whole), info={**fused_info(whole), **changes}
        )
        with pytest.raises(ValueError, match=message):
            load_fused(path)

    @pytest.mark.parametrize(
        "inputs",
        [
            [1],
            {"tensor": "os", "shape": [1]},
            {"tensor": "float32", "shape": [2**40]},
            {"tensor": "float32", "shape": "x"},
            {"tuple": [{"tensor": 3}]},
            {"tensor": "float32", "shape": [2**15, 2**15]},
            {"list": [{"tensor": "float32", "shape": [2**13, 2**13]}] * 20},
        ],
    )
    def test_inputs(self, inputs: Any, whole: Path, tmp_path: Path) -> None:
        about = {**fused_info(whole), "inputs": inputs}
        path = self.forge(tmp_path / "forged.safetensors", tensors=load_file(whole), info=about)
        with pytest.raises(ValueError, match="the inputs are described by"):
            load_fused(path, into=CifarQuick(ACBConv(), 10))

    @pytest.mark.parametrize(
        ("about", "message"),
        [
            ("x", "describes its images by 'x', expected names and values"),
            ({"image_shape": "x"}, "`image_shape` is 'x', expected three integers from 1 to 4096"),
            ({"image_shape": [1024, 512, 512]}, "`image_shape` is [1024, 512, 512], expected three integers"),
            ({"image_shape": {}}, "`image_shape` is {}, expected"),
            ({"image_shape": [3, 8, -1]}, "`image_shape` is [3, 8, -1], expected"),
            ({"image_shape": [3, 0, 8]}, "`image_shape` is [3, 0, 8], expected"),
            ({"image_shape": [3, 8, 2**62]}, f"`image_shape` is [3, 8, {2**62}], expected"),
            ({"image_shape": [3, 8, True]}, "`image_shape` is [3, 8, True], expected"),
            ({"mean": 0.5}, "`mean` is 0.5, expected a list of one number"),
            ({"image_shape": [3, 8, 8], "mean": [0.5, 0.5]}, "`mean` is [0.5, 0.5], expected"),
            ({"mean": [10**400]}, "`mean` is [1000000000"),
            ({"std": [0.5, 0.0, 0.5]}, "`std` is [0.5, 0.0, 0.5], expected a list of one number from 1e-09 to 1e+09"),
            ({"std": [float("nan")]}, "`std` is [nan], expected"),
            ({"std": [float("inf")]}, "`std` is [inf], expected"),
            ({"std": [-0.2]}, "`std` is [-0.2], expected"),
            ({"resize": [1]}, "`resize` is [1], expected an integer from 1 to 4096"),
            ({"exif": "yes"}, "`exif` is 'yes', expected true or false"),
            ({"class_names": 5}, "`class_names` is 5, expected a list of strings that differ"),
            ({"class_names": [0, 1]}, "`class_names` is [0, 1], expected"),
            ({"class_names": "cat"}, "`class_names` is 'cat', expected"),
            ({"class_names": ["cat", "cat"]}, "`class_names` is ['cat', 'cat'], expected"),
        ],
    )
    def test_images(self, about: Any, message: str, tmp_path: Path) -> None:
        path = self.forge(tmp_path / "forged.safetensors", info={"preprocessing": about})
        for read in (fused_info, load_fused):
            with pytest.raises(ValueError, match=re.escape(message)) as refused:
                read(path)
            assert str(refused.value).startswith(f"{path} describes its images ")
            assert len(str(refused.value).splitlines()) == 1
        with pytest.raises(ValueError, match=re.escape(message)):  # what cannot be read is not written
            save_fused(nn.Identity(), tmp_path / "new.safetensors", {"preprocessing": about})
        checkpoint = {"callbacks": {"Preprocessing": about}}
        with pytest.raises(CheckpointError, match=r"last\.ckpt describes its images "):
            preprocessing_of(checkpoint, "last.ckpt")

    def test_weights_of_another_kind(self, whole: Path, tmp_path: Path) -> None:
        tensors = {name: tensor.to(torch.int32) for name, tensor in load_file(whole).items()}
        path = self.forge(tmp_path / "forged.safetensors", tensors=tensors, info=fused_info(whole))
        with pytest.raises(ValueError, match=r"is torch.int32, expected torch.float32"):
            load_fused(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        for read in (fused_info, load_fused):
            with pytest.raises(ValueError, match=r"^there is no file .*missing\.safetensors; `fit` and `fuse` write"):
                read(tmp_path / "missing.safetensors")

    @pytest.mark.parametrize(
        ("name", "what"), [("last.ckpt", "a checkpoint"), ("fused.safetensors", r"a file of torch\.save")]
    )
    def test_a_checkpoint(self, name: str, what: str, tmp_path: Path) -> None:
        torch.save({"a": torch.zeros(3)}, tmp_path / name)
        for read in (fused_info, load_fused):
            with pytest.raises(ValueError, match=rf"is {what}, not a fused file; .*`acnet_pl fuse .*{name}` makes"):
                read(tmp_path / name)

    def test_half_a_file(self, whole: Path, tmp_path: Path) -> None:
        path = tmp_path / "half.safetensors"
        path.write_bytes(whole.read_bytes()[:100])
        with pytest.raises(ValueError, match="is not a readable safetensors file"):
            load_fused(path)

    def test_a_folder_without_a_fused_file(self, tmp_path: Path) -> None:
        for read in (fused_info, load_fused):
            with pytest.raises(ValueError, match=r"is a folder without a fused\.safetensors; give the file"):
                read(tmp_path)

    @fuzz
    @given(
        edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
        cut=st.one_of(st.none(), st.floats(0, 1)),
    )
    def test_any_damage_of_the_header_is_a_value_error_or_harmless(
        self, edits: list[tuple[int, int]], cut: float | None, whole: Path, tmp_path: Path
    ) -> None:
        data = bytearray(whole.read_bytes())
        (header,) = struct.unpack("<Q", data[:8])
        for where, value in edits:
            data[where % (8 + header)] = value
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(data if cut is None else data[: int(cut * len(data))])
        try:
            network = load_fused(path)
        except ValueError:
            return
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, fused_info(path)["num_classes"])
