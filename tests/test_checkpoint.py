from __future__ import annotations

import errno
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from acnet_pl import ACBConv, ImageClassifier
from acnet_pl.atomic import atomic_path, remove_unfinished
from acnet_pl.backbones import CifarQuick
from acnet_pl.checkpoint import AtomicCheckpointIO, CheckpointError, load_network, read_checkpoint
from acnet_pl.cli import main

fuzz = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Malicious:
    """A pickle of this runs a command of the shell when it is loaded in the ordinary way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def randomised(seed: int = 0) -> ImageClassifier:
    torch.manual_seed(seed)
    model = ImageClassifier(CifarQuick, ACBConv(), num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def content(model: ImageClassifier) -> dict[str, Any]:
    return {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(randomised()), path)
    return path


def test_what_is_saved_is_what_is_loaded(whole: Path) -> None:
    model = randomised()
    network, info = load_network(whole)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(network(images), model.net.eval()(images))
    assert info["backbone"]["class_path"] == "acnet_pl.backbones.cifar_quick.CifarQuick"


def test_the_file_before_is_kept_under_its_other_name(tmp_path: Path) -> None:
    disk, last, previous = AtomicCheckpointIO(), tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for step in range(3):
        disk.save_checkpoint({"state_dict": {}, "step": step}, last, {"previous": previous})
    assert (read_checkpoint(last)["step"], read_checkpoint(previous)["step"]) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_failure_at_any_point_leaves_a_whole_file(
    call: str, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, last, previous = AtomicCheckpointIO(), tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for step in range(2):
        disk.save_checkpoint({"state_dict": {}, "step": step}, last, {"previous": previous})
    owner_name, _, name = call.rpartition(".")
    owner = os if owner_name == "os" else Path
    original, calls = getattr(owner, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        stop: OSError | None = None
        try:
            disk.save_checkpoint({"state_dict": {}, "step": 2}, last, {"previous": previous})
        except OSError as error:
            stop = error
    if stop is not None:
        assert stop.errno == errno.ENOSPC
        assert "earlier checkpoints are whole; free some space" in str(stop)
        assert stop.filename == str(last)
    assert read_checkpoint(last)["step"] in (1, 2)
    assert read_checkpoint(previous)["step"] in (0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_removal_waits_where_it_is_to(tmp_path: Path) -> None:
    disk = AtomicCheckpointIO()
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    for path in (first, second):
        disk.save_checkpoint({"state_dict": {}}, path)
    disk.remove_checkpoint(first)
    assert not first.exists()
    disk.defers_removal = True
    disk.remove_checkpoint(second)
    assert second.exists()
    disk.remove_unwanted()
    assert not second.exists()


def test_a_hard_link_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    last, previous = tmp_path / "last", tmp_path / "previous"
    for text in ("old", "new"):
        with atomic_path(last, previous) as unfinished:
            unfinished.write_text(text)
    assert (last.read_text(), previous.read_text()) == ("new", "old")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    writer = atomic_path(tmp_path / "below" / "last.ckpt")
    unfinished = writer.__enter__()
    unfinished.write_text("half of")
    remove_unfinished(tmp_path)
    assert not list(tmp_path.rglob("*.ckpt"))
    unfinished.write_text("")
    writer.__exit__(None, None, None)


class TestNothingIsExecuted:
    def places(self, path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Callable[[], Any]]:
        def command(name: str, *options: str) -> Callable[[], None]:
            def run() -> None:
                assert main([name, *options]) == 1
                raise CheckpointError(capsys.readouterr().err)

            return run

        quiet = ["--wandb.mode", "disabled", "--trainer.accelerator", "cpu", "--runs_dir", str(path.parent / "runs")]
        return {
            "read_checkpoint": lambda: read_checkpoint(path),
            "load_network": lambda: load_network(path),
            "Trainer's plugin": lambda: AtomicCheckpointIO().load_checkpoint(path, weights_only=False),
            "fuse": command("fuse", str(path)),
            **{
                name: command(name, "--ckpt_path", str(path), *quiet) for name in ("fit", "validate", "test", "predict")
            },
        }

    @pytest.mark.parametrize("disguise", ["pickle", "zip", "state_dict"])
    @pytest.mark.parametrize(
        "place", ["read_checkpoint", "load_network", "Trainer's plugin", "fuse", "fit", "validate", "test", "predict"]
    )
    def test_a_malicious_pickle_is_refused(
        self, place: str, disguise: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, proof = tmp_path / "last.ckpt", tmp_path / "proof"
        if disguise == "pickle":
            path.write_bytes(pickle.dumps(Malicious(proof)))
        elif disguise == "zip":
            torch.save(Malicious(proof), path)
        else:
            torch.save({**content(randomised()), "callbacks": {"RunCheckpoint": Malicious(proof)}}, path)
        with pytest.raises(CheckpointError, match="is not a checkpoint that can be read safely"):
            self.places(path, capsys)[place]()
        assert not proof.exists()

    def test_the_pickle_is_malicious(self, tmp_path: Path) -> None:
        torch.save(Malicious(tmp_path / "proof"), tmp_path / "last.ckpt")
        torch.load(tmp_path / "last.ckpt", weights_only=False)
        assert (tmp_path / "proof").exists()

    @pytest.mark.parametrize("part", ["backbone", "conv", "optimizer", "schedule"])
    @pytest.mark.parametrize("form", ["class_path", "string", "nested"])
    def test_a_checkpoint_cannot_have_a_module_imported(
        self, part: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "trojan_horse.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\nclass Net: pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        options = content(randomised())
        malicious: Any = {"class_path": "trojan_horse.Net", "init_args": {}}
        if form == "string":
            malicious = "trojan_horse.Net"
        elif form == "nested":
            malicious = {**options["hyper_parameters"][part], "init_args": {"x": malicious}}
        options["hyper_parameters"][part] = malicious
        path = tmp_path / "last.ckpt"
        torch.save(options, path)
        for name in ("load_network", "fuse", "fit", "test"):
            if name in ("load_network", "fuse") and part not in ("backbone", "conv"):
                continue
            with pytest.raises(ValueError, match=r"is not acnet_pl's own|expected a class_path|cannot be built"):
                self.places(path, capsys)[name]()
        assert not (tmp_path / "proof").exists()

    def test_a_function_of_the_standard_library_is_no_backbone(self, tmp_path: Path) -> None:
        options = content(randomised())
        proof = str(tmp_path / "proof")
        options["hyper_parameters"] |= {
            "backbone": {"class_path": "os.spawnv", "init_args": {"args": ["touch", proof]}},
            "num_classes": "/usr/bin/touch",
        }
        torch.save(options, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match=r"os\.spawnv is not a backbone"):
            load_network(tmp_path / "last.ckpt")
        assert not Path(proof).exists()


class TestDamage:
    @pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
    def test_a_truncated_file(self, keep: float, whole: Path, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        path.write_bytes(whole.read_bytes()[: int(keep * whole.stat().st_size)])
        with pytest.raises(CheckpointError, match=r"last\.ckpt is not a checkpoint that can be read safely"):
            read_checkpoint(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="there is no checkpoint"):
            read_checkpoint(tmp_path / "last.ckpt")

    def test_every_flipped_bit_of_the_weights_is_noticed(self, whole: Path, tmp_path: Path) -> None:
        data, path = whole.read_bytes(), tmp_path / "last.ckpt"
        with zipfile.ZipFile(whole) as archive:
            records = {info.filename: (info.header_offset, info.file_size) for info in archive.infolist()}
        offset, size = max(records.values(), key=lambda record: record[1])
        for position in range(offset + 200, offset + size, size // 20):
            path.write_bytes(data[:position] + bytes([data[position] ^ 16]) + data[position + 1 :])
            with pytest.raises(CheckpointError, match="corrupt"):
                read_checkpoint(path)

    @fuzz
    @given(
        edits=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
        cut=st.one_of(st.none(), st.floats(0, 1)),
    )
    def test_any_damage_is_a_checkpoint_error_or_no_damage(
        self, edits: list[tuple[float, int]], cut: float | None, whole: Path, tmp_path: Path
    ) -> None:
        data = bytearray(whole.read_bytes())
        for where, value in edits:
            data[int(where * len(data))] = value
        path = tmp_path / "last.ckpt"
        path.write_bytes(data if cut is None else data[: int(cut * len(data))])
        try:
            network, _ = load_network(path)
        except ValueError:
            return
        expected, _ = load_network(whole)  # the edit hit what nobody reads
        for name, value in network.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name])

    @fuzz
    @given(edits=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=4))
    def test_a_forged_pickle_with_right_checksums(
        self, edits: list[tuple[float, int]], whole: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "last.ckpt"
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                data = bytearray(source.read(info))
                if info.filename.endswith("data.pkl"):
                    for where, value in edits:
                        data[int(where * len(data))] = value
                target.writestr(info.filename, bytes(data))
        try:
            network, _ = load_network(path)
        except ValueError:
            return
        assert isinstance(network, nn.Module)

    @fuzz
    @given(data=st.binary(max_size=400))
    def test_noise(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        for noise in (data, stored_zip("archive/data.pkl", data)):
            path.write_bytes(noise)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)

    def test_a_compressed_archive_is_not_unpacked(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**8))
        assert path.stat().st_size < 10**6
        with pytest.raises(CheckpointError, match="compressed"):
            read_checkpoint(path)


def stored_zip(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    assert struct.pack("<I", zlib.crc32(data)) in buffer.getvalue()
    return buffer.getvalue()
