from __future__ import annotations

import copy
import errno
import io
import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from acnet_pl import ACBConv, ImageClassifier, PlainConv
from acnet_pl.atomic import atomic_path, remove_unfinished
from acnet_pl.backbones import CifarQuick, Timm, Torchvision
from acnet_pl.checkpoint import AtomicCheckpointIO, CheckpointError, load_network, read_checkpoint
from acnet_pl.cli import main
from acnet_pl.deploy import fused_info, load_fused
from acnet_pl.modules.untrusted import check_hyper_parameters

PARTS = {
    "backbone": "backbones.CifarQuick",
    "conv": "nn.ACBConv",
    "optimizer": "nn.ACBConv",  # of another kind
    "schedule": "modules.CosineSchedule",
}
HORSE = "trojan_horse.Net"

fuzz = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    phases=[Phase.explicit, Phase.generate],  # shrinking what takes a tenth of a second would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
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
    version = {"pytorch-lightning_version": metadata.version("pytorch-lightning")}
    return {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **version}


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


def test_a_pipe_is_not_replaced_by_a_file_and_a_link_leaves_its_target(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="it is a named pipe, expected a regular file"), atomic_path(pipe):
        pytest.fail("it was to be written")
    assert pipe.is_fifo()
    target.write_text("mine")
    link.symlink_to(target)
    with atomic_path(link) as unfinished:
        unfinished.write_text("new")
    assert (link.is_symlink(), link.read_text(), target.read_text()) == (False, "new", "mine")


def test_a_file_that_cannot_be_made_is_told_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / f"{250 * 'x'}.csv"  # with a longer temporary name
    with pytest.raises(OSError) as caught, atomic_path(path) as unfinished:  # noqa: PT011  (its number differs)
        unfinished.write_text("new")
    assert caught.value.filename == str(path)


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
            "load_from_checkpoint": lambda: ImageClassifier.load_from_checkpoint(path, weights_only=False),
            "fuse": command("fuse", str(path)),
            "export": command("export", str(path)),
            **{
                name: command(name, "--ckpt_path", str(path), *quiet) for name in ("fit", "validate", "test", "predict")
            },
        }

    @pytest.mark.parametrize("disguise", ["pickle", "zip", "state_dict"])
    @pytest.mark.parametrize(
        "place",
        [
            *("read_checkpoint", "load_network", "Trainer's plugin", "load_from_checkpoint"),
            *("fuse", "export", "fit", "validate", "test", "predict"),
        ],
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
        with pytest.raises(ValueError, match="is not a checkpoint that can be read safely"):
            self.places(path, capsys)[place]()
        assert not proof.exists()

    def test_the_pickle_is_malicious(self, tmp_path: Path) -> None:
        torch.save(Malicious(tmp_path / "proof"), tmp_path / "last.ckpt")
        torch.load(tmp_path / "last.ckpt", weights_only=False)
        assert (tmp_path / "proof").exists()

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("kind", [Torchvision, Timm])
    def test_a_malicious_file_of_weights_is_refused(self, kind: type[nn.Module], suffix: str, tmp_path: Path) -> None:
        path, proof = tmp_path / f"weights{suffix}", tmp_path / "proof"
        torch.save({"conv1.weight": Malicious(proof)}, path)
        with pytest.raises(ValueError, match="is no file of weights that can be read without running code"):
            kind(PlainConv(), 5, name="resnet18", weights_file=str(path))
        assert not proof.exists()

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("depth", 600_000_002, "must be at most 10,000"),
            ("width", 10_000_000, "far larger than the file|cannot be built"),
            ("shortcut", ["identity"] * 3, "cannot be built|`shortcut`"),
        ],
    )
    def test_a_network_that_the_file_cannot_hold_is_not_built(
        self, key: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "last.ckpt"
        network = "WideResNet" if key == "width" else "ResNetCifar"
        options = content(randomised())
        options["hyper_parameters"]["backbone"] = {
            "class_path": f"acnet_pl.backbones.{network}",
            "init_args": {key: value},
        }
        torch.save(options, path)
        (tmp_path / "config.yaml").write_text("data: {class_path: acnet_pl.data.DigitsDataModule}\n")
        for place in ("load_network", "load_from_checkpoint", "test"):
            with pytest.raises(ValueError, match=message):
                self.places(path, capsys)[place]()

    def test_a_tensor_larger_than_its_file_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "last.ckpt"
        options = content(randomised())
        options["state_dict"]["net.more"] = torch.zeros(1).expand(
            2**20, 2**20
        )  # four bytes, four terabytes once copied
        torch.save(options, path)
        for place in ("read_checkpoint", "load_from_checkpoint", "Trainer's plugin"):
            with pytest.raises(ValueError, match=r"shape \(1048576, 1048576\) is larger than the whole file"):
                self.places(path, capsys)[place]()

    @pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/environ", "notes.pth", "notes.safetensors", "."])
    def test_only_a_file_of_weights_is_opened(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for file in ("notes.pth", "notes.safetensors"):
            Path(file).write_text("secret: 1")
        with pytest.raises(ValueError, match="is no file") as refused:
            Torchvision(PlainConv(), 5, name="resnet18", weights_file=name)
        assert "secret" not in str(refused.value)

    def test_a_malicious_fused_file_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path, proof = tmp_path / "fused.safetensors", tmp_path / "proof"
        torch.save(Malicious(proof), path)
        for load in (fused_info, load_fused):
            with pytest.raises(ValueError, match=r"is a file of torch\.save, not a fused file"):
                load(path)
        assert main(["export", str(path)]) == 1
        assert "is a file of torch.save, not a fused file" in capsys.readouterr().err
        assert not proof.exists()

    # What a file may not name: a module to be imported, as a class or anywhere in its options; something to be called.
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *((part, {"class_path": "trojan_horse.Net", "init_args": {}}) for part in PARTS),
            *((part, "trojan_horse.Net") for part in PARTS),
            *((part, {"class_path": f"acnet_pl.{PARTS[part]}", "init_args": {"x": HORSE}}) for part in PARTS),
            *((part, {"class_path": f"acnet_pl.{PARTS[part]}", "init_args": {"x": [{"y": HORSE}]}}) for part in PARTS),
            *((part, {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "proof"]}}) for part in PARTS),
            ("schedule", {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": HORSE}}),
            ("schedule", {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os._exit"}}),
            ("backbone", {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": ".", "model": "Net"}}),
            ("backbone", {"class_path": "torch.fx.graph_module.reduce_graph_module", "init_args": {"body": {}}}),
            ("backbone", {"class_path": "torch.load", "init_args": {"f": "proof.pt", "weights_only": False}}),
            ("backbone", {"class_path": "acnet_pl.cli.resume.os.system"}),
            ("_instantiator", HORSE),
            ("_class_path", HORSE),
            ("schedule.class_path", HORSE),
            ("label_smoothing", HORSE),
            (
                "label_smoothing",
                f"{{class_path: {HORSE}, class_path: {HORSE}}}",
            ),  # one parser refuses, another reads it
            *(
                (part, {"class_path": f"acnet_pl.{PARTS[part]}", "init_args": {"x": f"{HORSE}\t"}})
                for part in ("backbone", "conv", "schedule")
            ),
        ],
    )
    def test_a_checkpoint_names_nothing_to_be_run(
        self, key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = f"open({str(tmp_path / 'proof')!r}, 'w').close()\ndef Net(*args, **kwargs): return 1.0\n"
        for name in ("trojan_horse.py", "hubconf.py"):
            (tmp_path / name).write_text(code)
        torch.save(Malicious(tmp_path / "proof"), tmp_path / "proof.pt")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        options = content(randomised())
        options["hyper_parameters"][key] = value
        torch.save(options, "last.ckpt")
        refused = (
            r"is not of a package that files may name|expected a (class_path|Module|ConvBuilder|Optimizer|Schedule)"
            r"|would be imported|may be read as more than text|is not the name of a hyper-parameter|asks to be built by"
            r"|there is no backbone|has no place in a run"
        )
        with pytest.raises(ValueError, match=refused):
            ImageClassifier.load_from_checkpoint("last.ckpt")
        with pytest.raises(ValueError, match=refused):  # what every command that takes --ckpt_path does first
            check_hyper_parameters(read_checkpoint("last.ckpt")["hyper_parameters"])
        if key in ("backbone", "conv"):
            with pytest.raises(ValueError, match=refused):
                load_network("last.ckpt")
        assert not Path("proof").exists()

    @pytest.mark.parametrize("command", ["fit", "test"])
    def test_commands_look_before_they_build(
        self, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "trojan_horse.py").write_text(
            f"open({str(tmp_path / 'proof')!r}, 'w').close()\ndef f(*_): return 1.0\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        options, path = content(randomised()), tmp_path / "last.ckpt"
        options["hyper_parameters"]["schedule"] = {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "trojan_horse.f"},
        }
        torch.save(options, path)
        with pytest.raises(CheckpointError, match=r"'trojan_horse\.f', which would be imported"):
            self.places(path, capsys)[command]()
        assert not (tmp_path / "proof").exists()

    def test_a_checkpoint_without_its_training_is_said_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "last.ckpt"
        torch.save(content(randomised()), path)
        (tmp_path / "config.yaml").write_text("data: {class_path: acnet_pl.data.DigitsDataModule}\n")
        with pytest.raises(CheckpointError, match="no state of a training"):
            self.places(path, capsys)["fit"]()
        torch.save({key: content(randomised())[key] for key in ("state_dict", "hyper_parameters")}, path)
        with pytest.raises(CheckpointError, match="it does not say of which version"):
            self.places(path, capsys)["test"]()

    @pytest.mark.parametrize("place", ["load_network", "fuse", "export", "fit", "validate", "test", "predict"])
    def test_the_way_out_is_told_for_another_module(
        self, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "own.ckpt"
        torch.save({**content(randomised()), "hyper_parameters": {"lr": 0.1}}, path)
        way_out = re.escape(f"MyModule.load_from_checkpoint({str(path)!r})") + ".*fuse_model or acnet_pl.export_model"
        with pytest.raises(CheckpointError, match=f"is not a checkpoint of an acnet_pl ImageClassifier.*{way_out}"):
            self.places(path, capsys)[place]()

    def test_what_they_name_would_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "trojan_horse.py").write_text(
            f"open({str(tmp_path / 'proof')!r}, 'w').close()\ndef f(*_): return 1.0\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("acnet_pl.modules.classifier.check_hyper_parameters", lambda options: None)
        options, path = content(randomised()), tmp_path / "last.ckpt"
        options["hyper_parameters"]["schedule"] = {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "trojan_horse.f"},
        }
        torch.save(options, path)
        with pytest.raises(TypeError, match="must be plain data"):  # too late
            ImageClassifier.load_from_checkpoint(path)
        assert (tmp_path / "proof").exists()
        sys.modules.pop("trojan_horse")


class TestDamage:
    @pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
    def test_a_truncated_file(self, keep: float, whole: Path, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        path.write_bytes(whole.read_bytes()[: int(keep * whole.stat().st_size)])
        why = r"\(its end is missing\)" if keep else r"\(it is empty\)"
        with pytest.raises(CheckpointError, match=rf"last\.ckpt is not a checkpoint that can be read safely {why}"):
            read_checkpoint(path)

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        path.write_text("backbone: CifarQuick")
        with pytest.raises(CheckpointError, match=r"does not begin as what torch\.save writes"):
            read_checkpoint(path)
        torch.save({"conv.weight": torch.zeros(2)}, path)
        with pytest.raises(CheckpointError, match=r"it has no state_dict\. Weights alone .*weights_file"):
            read_checkpoint(path)

    def test_what_a_pickle_asks_for_is_named_and_pytorchs_advice_to_run_it_is_not_given(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {"a": Path.touch}}, tmp_path / "last.ckpt")
        with pytest.raises(CheckpointError, match=r"it asks for \S+ to be called\)") as caught:
            read_checkpoint(tmp_path / "last.ckpt")
        assert "weights_only" not in str(caught.value)

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

    def test_any_damage_is_a_checkpoint_error_or_no_damage(self, whole: Path, tmp_path: Path) -> None:
        original, path, outcomes = whole.read_bytes(), tmp_path / "last.ckpt", Counter[str]()
        expected = load_network(whole)[0].state_dict()
        # The weights are most of the file; what the archive says of itself is where an edit may do harm.
        with zipfile.ZipFile(whole) as archive:
            headers = [info.header_offset + i for info in archive.infolist() for i in range(30 + len(info.filename))]
            tail = range(archive.start_dir, len(original))
        places = st.one_of(st.sampled_from(headers), st.sampled_from(tail), st.integers(0, len(original) - 1))
        edit = st.tuples(places, st.integers(0, 255))

        @fuzz
        @given(st.lists(edit, min_size=1, max_size=6), st.one_of(st.none(), st.none(), st.integers(0, len(original))))
        def damage(edits: list[tuple[int, int]], cut: int | None) -> None:
            data = bytearray(original)
            for where, value in edits:
                data[where] = value
            path.write_bytes(data[:cut])
            try:
                network, _ = load_network(path)
            except ValueError as error:
                outcomes[type(error).__name__] += 1
                return
            outcomes["hit what nobody reads"] += 1
            for name, value in network.state_dict().items():
                assert torch.equal(value, expected[name])

        damage()
        assert outcomes["CheckpointError"] >= 20
        assert outcomes["hit what nobody reads"] >= 5

    def test_a_forged_pickle_with_right_checksums(self, whole: Path, tmp_path: Path) -> None:
        path, outcomes = tmp_path / "last.ckpt", Counter[str]()
        with zipfile.ZipFile(whole) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
        (name,) = (name for name in records if name.endswith("data.pkl"))
        program = records[name]
        instructions = [position for _, _, position in pickletools.genops(program) if position is not None]
        opcode = st.sampled_from([ord(instruction.code) for instruction in pickletools.opcodes])
        edit = st.one_of(
            st.tuples(st.just("byte"), st.integers(0, len(program) - 1), st.integers(0, 255)),
            st.tuples(st.just("opcode"), st.sampled_from(instructions), opcode),
            st.tuples(st.just("insert"), st.sampled_from(instructions), opcode),
            st.tuples(st.just("leave out"), st.sampled_from(instructions), st.just(0)),
        )

        @fuzz
        @given(st.lists(edit, min_size=1, max_size=3))
        def forge(edits: list[tuple[str, int, int]]) -> None:
            data = bytearray(program)
            for kind, where, value in sorted(edits, key=lambda edit: -edit[1]):
                if kind == "leave out":
                    del data[where]
                else:
                    data[where : where + (kind != "insert")] = bytes([value])
            with zipfile.ZipFile(path, "w") as target:
                for record, content in {**records, name: bytes(data)}.items():
                    target.writestr(record, content)
            try:
                network, _ = load_network(path)
            except ValueError as error:
                outcomes["unread" if "can be read safely" in str(error) else "of something else"] += 1
                return
            outcomes["built"] += 1
            assert isinstance(network, nn.Module)

        forge()
        assert min(outcomes[kind] for kind in ("unread", "of something else", "built")) >= 2, outcomes

    def test_nonsense_in_the_place_of_a_value(self, tmp_path: Path) -> None:
        path, outcomes = tmp_path / "last.ckpt", Counter[str]()
        places = [
            *[(key,) for key in ("state_dict", "hyper_parameters")],
            *[("state_dict", key) for key in ("net.conv1.square.weight", "x")],
            *[("hyper_parameters", key) for key in ("backbone", "conv", "num_classes")],
            *[("hyper_parameters", part, key) for part in ("backbone", "conv") for key in ("class_path", "init_args")],
            ("hyper_parameters", "conv", "init_args", "gamma_init"),
        ]
        scalars = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=6)
        tensors = st.sampled_from([torch.zeros(2), torch.zeros(0), torch.ones(8, dtype=torch.int8), torch.ones(())])
        names = st.sampled_from(["acnet_pl.", "acnet_pl.nn", "torch.nn.Linear", "acnet_pl.backbones.VGG16", ".", "a.b"])
        values = st.recursive(
            scalars | tensors | names, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=3
        )

        good = content(randomised())

        @settings(fuzz, max_examples=75)
        @given(st.sampled_from(places), values)
        def replace(place: tuple[str, ...], value: Any) -> None:
            forged = copy.deepcopy(good)
            *parents, last = place
            where = forged
            for parent in parents:
                where = where[parent]
            where[last] = value
            torch.save(forged, path)
            try:
                load_network(path)
                outcomes["built"] += 1
            except ValueError:
                outcomes["refused"] += 1

        replace()
        assert min(outcomes[kind] for kind in ("built", "refused")) >= 2, outcomes

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


def test_what_is_no_checkpoint_but_lies_beside_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder; of a run's folder give checkpoints/last\.ckpt"):
        read_checkpoint(tmp_path)
    (tmp_path / "fused.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"holds weights alone; give the run's checkpoints/last\.ckpt"):
        read_checkpoint(tmp_path / "fused.safetensors")
