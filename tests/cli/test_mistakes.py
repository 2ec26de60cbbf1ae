"""Every mistake at the keyboard ends in one readable message and an exit code, without a traceback."""

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from acnet_pl.cli import main
from acnet_pl.cli.errors import readable_errors

pytestmark = pytest.mark.filterwarnings("ignore")

KNOWN_AT_ONCE = [
    (["fit", "--data.batchsize", "3"], ["--data.batchsize", "did you mean --data.batch_size?"]),
    (["fit", "--config", "no_such_file.yaml"], ["--config no_such_file.yaml: there is no such file"]),
    (["test"], ["--ckpt_path"]),
    (["fuse"], ["checkpoint"]),
    (["fuse", "no/such.ckpt"], ["no/such.ckpt: there is no such checkpoint"]),
    (["export", "x.ckpt", "--formt", "onnx"], ["--formt", "did you mean --format?"]),
    (["fuse", "a.ckpt", "b.ckpt"], ["b.ckpt: the command takes no further file"]),
    (["data", "optimise"], ["'optimise' is none of", "did you mean optimize?"]),
    (["data", "check", "no/where"], ["no/where: there is no such folder"]),
    (["demo", "--epochs", "0"], ["`epochs` (=0) must be at least 1"]),
    (["demo", "--epoch", "3"], ["did you mean --epochs?"]),
    (["reproduce", "tabel1"], ["'tabel1' is none of", "did you mean table1?"]),
    (["reproduce", "digits", "--modles", "resnet8"], ["--modles", "did you mean --models?"]),
    (["reproduce", "digits", "--data.rot", "x"], ["--data.rot", "did you mean --data.root?"]),
    (["fitt"], ["unknown command 'fitt'", "fit, validate", "did you mean fit?"]),
]


# One fresh process makes them all, and tells of each what is imported by then.
MAKE = """
import contextlib, io, json, sys
from acnet_pl.cli import main

for args in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(args)
    print(json.dumps([code, said.getvalue(), sorted({"torch", "pytorch_lightning", "numpy"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def made():
    """Exit code, message and heavy imports of each mistake that can be known at once."""
    command = [sys.executable, "-c", MAKE, json.dumps([args for args, _ in KNOWN_AT_ONCE])]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {" ".join(args): json.loads(line) for (args, _), line in zip(KNOWN_AT_ONCE, lines, strict=True)}


@pytest.mark.parametrize(("args", "expected"), KNOWN_AT_ONCE, ids=[" ".join(args) for args, _ in KNOWN_AT_ONCE])
def test_mistakes_that_can_be_known_are_found_without_torch(args, expected, made):
    code, said, imported = made[" ".join(args)]
    assert (code, imported) == (2, []), said
    check(said, [*expected, "--help`"])


PARSED = [
    (["fit", "--model.conv", "ACBConv", "--model.conv.gamma_init", "large"], ["gamma_init", "a float", "large"]),
    (["fit", "--model.schedule.warmup_epochs", "[1]"], ["warmup_epochs", "a float"]),
    (["fit", "--model.backbone", "no_such_package.Net"], ["no_such_package"]),
    (["fit", "--trainer.callbacks+=NoSuchCallback"], ["trainer.callbacks", "NoSuchCallback", "acnet_pl fit --help"]),
    (["fit", "--trainer.callbacks+=EarlyStoping"], ["EarlyStoping: there is no such callback", "mean EarlyStopping?"]),
    (["fit", "--trainer.logger", "Tensorboard"], ["Tensorboard: there is no such logger", "mean TensorBoardLogger?"]),
]


@pytest.mark.parametrize(("args", "expected"), PARSED, ids=[" ".join(args) for args, _ in PARSED])
def test_mistakes_in_options(args, expected, capsys):
    assert main(args) == 2
    check(capsys.readouterr().err, expected)


RUN = [
    (["fit", "--model.backbone", "ResNetCifar", "--model.backbone.depth", "9"], ["depth", "9", "6n+2", "8"]),
    (["fit", "--data", "ImageFolderDataModule", "--data.root", "."], ["photos belong in one folder for each class"]),
    (["fit", "--data.batch_size", "5000"], ["batch_size", "5000", "1197"]),
    (["fit", "--data.image_size", "16"], ["CifarQuick takes 32×32 images, got 16×16"]),
    (["fit", "--data", "CIFARDataModule", "--data.root", "."], ["cifar"]),
    (["fit", "--fuse.filename", ".."], ["`fuse.filename` (='..') must be the name of a file, without folders"]),
    (["fit", "--fuse.filename", "../../a.safetensors"], ["`fuse.filename` (='../../a.safetensors') must be"]),
    (["fit", "--fuse.filename", "summary.json"], ["(='summary.json') must be", "that ends in .safetensors"]),
    (["fit", "--predictions.filename", "metrics.csv"], ["`predictions.filename` (='metrics.csv') must be"]),
    (["fit", "--predictions.filename", ""], ["`predictions.filename` (='') must be", "that ends in .csv"]),
    (["fit", "--equivalence.fit_batches", "0"], ["`equivalence.fit_batches` (=0) must be at least 1"]),
    (["fit", "--trainer.devices", "-1"], ["--trainer.devices -1: on a CPU this is the number of processes"]),
]


@pytest.mark.parametrize(("args", "expected"), RUN, ids=[" ".join(args) for args, _ in RUN])
def test_mistakes_that_show_when_it_runs(args, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*args, "--runs_dir", str(tmp_path / "runs"), "--wandb.mode", "disabled"]) == 1
    check(capsys.readouterr().err, expected)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [], "a run that could not begin leaves nothing behind"


def test_a_checkpoint_of_another_architecture(finished, tmp_path, capsys):
    checkpoint = str(finished / "checkpoints/last.ckpt")
    assert main(["test", "--ckpt_path", checkpoint, "--model.backbone", "VGG16", "--runs_dir", str(tmp_path)]) == 1
    check(capsys.readouterr().err, ["another network", "ResNetCifar(depth=8", "VGG16()"])


def test_a_checkpoint_for_another_number_of_classes(finished, tmp_path, capsys, cifar100_root):
    checkpoint = str(finished / "checkpoints/last.ckpt")
    args = ["test", "--ckpt_path", checkpoint, "--data", "CIFARDataModule", "--data.dataset", "cifar100"]
    args += ["--data.root", str(cifar100_root), "--data.verify", "false", "--runs_dir", str(tmp_path)]
    assert main(args) == 1
    check(capsys.readouterr().err, ["the classes of these data are not those", "(10)", "(100)"])


def test_a_full_disk_is_said_with_the_way_on(capsys):
    with readable_errors("fit") as outcome:
        raise OSError(errno.ENOSPC, "No space left on device", "run/tables/\x1b[2Ja.csv")
    assert outcome.code == 1
    said = capsys.readouterr().err
    assert "No space left on device: run/tables/\\x1b[2Ja.csv could not be written; free some space" in said
    assert "--resume auto" in said


def test_an_evaluation_writes_through_no_link_out_of_the_run(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    shutil.rmtree(run / "test", ignore_errors=True)
    (run / "test").symlink_to(tmp_path / "mine")
    assert main(["test", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--wandb.mode", "disabled"]) == 1
    check(capsys.readouterr().err, ["test is a link, where results are to be written"])
    assert not list((tmp_path / "mine").iterdir())


def test_a_run_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert main(["fit", "--runs_dir", str(tmp_path / "runs")]) == 1
    check(capsys.readouterr().err, ["cannot make the run folder", "--runs_dir"])


def test_debugging_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("ACNET_PL_DEBUG", "1")
    with pytest.raises(ValueError, match="6n\\+2"):
        main(["fit", "--model.backbone", "ResNetCifar", "--model.backbone.depth", "9", "--runs_dir", str(tmp_path)])


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch, tmp_path, small):
    def broken(self, images):
        raise RuntimeError("an assertion of ours")

    monkeypatch.setattr("acnet_pl.backbones.resnet_cifar.ResNetCifar.forward", broken)
    with pytest.raises(RuntimeError, match="an assertion of ours"):
        main(["fit", *small, "--runs_dir", str(tmp_path), "--wandb.mode", "disabled"])


@pytest.mark.parametrize(
    ("ask", "size"),
    [(torch.empty, "144115188075855872 bytes"), (np.empty, "256. PiB"), (lambda _: bytearray(2**62), None)],
)
def test_too_little_memory_is_said(ask, size, capsys):
    with readable_errors("fuse") as outcome:
        ask(2**55)
    more = f" ({size} more were asked for)" if size else ""
    message = f"fuse: error: this machine has not enough memory{more}; give smaller images or a smaller batch\n"
    assert capsys.readouterr().err.endswith(message)
    assert outcome.code == 1


def test_an_interrupt_while_packages_are_imported(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("acnet_pl.cli.importlib.import_module", interrupted)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "acnet_pl fit: interrupted\n"


def test_weights_and_biases_without_a_key(monkeypatch, tmp_path, small, capsys):
    import wandb

    def without_key(*args, **kwargs):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr("wandb.init", without_key)
    assert main(["fit", *small, "--wandb.mode", "online", "--runs_dir", str(tmp_path)]) == 1
    check(capsys.readouterr().err, ["Weights & Biases: No API key configured", "--wandb.mode offline"])


@pytest.mark.parametrize(("mode", "code"), [("", 0), ("offlin", 1)])
def test_the_environments_mode_of_weights_and_biases(mode, code, monkeypatch, tmp_path, small, capsys):
    monkeypatch.setenv("WANDB_MODE", mode)
    few = ["--trainer.max_steps", "1", "--test_after_fit", "false", "--runs_dir", str(tmp_path)]
    assert main(["fit", *small, *few]) == code
    if code:
        check(capsys.readouterr().err, ["WANDB_MODE (='offlin')", "offline, online, disabled"])


def check(message, expected):
    assert "Traceback" not in message
    assert "error: " in message
    lines = message[message.index("error: ") :].strip().splitlines()
    assert len(lines) <= 12, message
    assert not any(noise in message for noise in ("Union", "Subtypes", "Namespace(", "<class '", "typing."))
    for text in expected:
        assert text in message, message
