"""A trained network is fused and its files are written, whatever its images are called or cannot be evaluated."""

from __future__ import annotations

import csv
import json
import os
import signal
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import acnet_pl
from acnet_pl.cli import main
from acnet_pl.modules import ImageClassifier

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = [b"a\xff", b"b[red]", b"c:smile:"]
RUN = ["--model.backbone", "ResNetCifar", "--model.backbone.depth", "8", "--trainer.accelerator", "cpu",
       "--trainer.enable_progress_bar", "false", "--wandb.mode", "disabled"]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Class folders whose names are not UTF-8, or look like markup and emoji."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 12, 3)).astype(np.uint8)
    for split in ("train", "val"):
        for label, name in enumerate(NAMES):
            folder = tmp_path / "images" / split / os.fsdecode(name)
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(pixels[label] + number).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_of_names_that_are_no_text(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_known(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("acnet_pl.provenance.version", nothing_known)
    runs = tmp_path / "runs[" / "] :smile:"
    options = [*RUN, "--data", "ImageNetDataModule", "--data.root", str(images), "--data.image_size", "8",
               "--data.resize", "8", "--data.num_workers", "0", "--data.batch_size", "6"]  # fmt: skip
    fit = ["fit", *options, "--trainer.max_epochs", "1", "--runs_dir", str(runs), "--name", "[/]"]
    assert main([*fit, "--trainer.limit_val_batches", "0", "--wandb.mode", "offline"]) == 0
    (folder,) = (runs / "[" / "]").iterdir()
    shown = capsys.readouterr().out
    assert f"Files in {folder}:" in shown
    assert "No figures of the validation: there were no batches" in shown
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["missing"]) == {"validation"}
    assert "test/top1" in summary["metrics"]
    assert summary["versions"]["torch"] == "not installed"
    assert not (folder / "UNFINISHED").exists()
    about = acnet_pl.fused_info(folder / "fused.safetensors")["preprocessing"]
    assert [os.fsencode(name) for name in about["class_names"]] == NAMES
    predict = ["predict", *options[len(RUN) :], "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    assert main([*predict, "--trainer.accelerator", "cpu", "--runs_dir", str(runs), "--name", "p"]) == 0
    (file,) = (runs / "p").glob("*/predictions.csv")
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        rows = list(csv.DictReader(lines))
    assert [os.fsencode(name) for name in list(rows[0])[3:]] == [b"p(%s)" % name for name in NAMES]


def test_of_a_test_that_fails(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("image 7 of [/] is unreadable")

    monkeypatch.setattr("acnet_pl.modules.ImageClassifier.test_step", broken)
    fit = ["fit", *small, "--trainer.max_epochs", "1", "--wandb.mode", "disabled", "--name", "run"]
    assert main([*fit, "--trainer.limit_train_batches", "1", "--runs_dir", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "No figures of the test: image 7 of [/] is unreadable" in shown.out
    assert "error: image 7 of [/] is unreadable" in shown.err
    (folder,) = (tmp_path / "run").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["missing"] == {"test": "image 7 of [/] is unreadable"}
    assert "val/top1" in summary["metrics"]
    assert acnet_pl.load_fused(folder / "fused.safetensors")
    assert (folder / "UNFINISHED").exists()  # `--resume auto` tests again


def test_of_an_interrupt_and_of_a_run_that_goes_on_with_other_options(
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = ImageClassifier.training_step

    def interrupted(model: ImageClassifier, *args: Any) -> Any:
        if model.current_epoch == 1:
            raise KeyboardInterrupt
        return step(model, *args)

    before = signal.getsignal(signal.SIGINT)  # Lightning ignores further ones
    monkeypatch.setattr(ImageClassifier, "training_step", interrupted)
    fit = ["fit", *small, "--wandb.mode", "disabled", "--name", "run", "--runs_dir", str(tmp_path)]
    epochs = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs"]
    assert main([*fit, *epochs, "2"]) == 130
    signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    (folder,) = (tmp_path / "run").iterdir()
    last = folder / "checkpoints" / "last.ckpt"
    assert f"acnet_pl fit: interrupted; --resume auto goes on from {last}" in capsys.readouterr().err
    began = (folder / "config.yaml").read_text()
    assert main(["fit", "--resume", str(folder), "--trainer.max_epochs", "3", "--model.optimizer.lr", "0.01"]) == 0
    assert "trainer.max_epochs 2 -> 3" in caplog.text
    assert "optimizer and schedule are those of the checkpoint" in caplog.text
    assert (folder / "config_at_the_beginning.yaml").read_text() == began
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


@pytest.mark.parametrize(("command", "name", "option"), [("test", "test", "test"), ("validate", "validation", "val")])
def test_an_evaluation_without_batches_is_told(
    command: str, name: str, option: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = [f"--trainer.limit_{option}_batches", "0", "--runs_dir", str(tmp_path)]
    assert main([command, str(finished / "checkpoints/last.ckpt"), *none, "--trainer.accelerator", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert f"No figures of the {name}: there were no batches (--trainer.limit_{option}_batches)\n" in shown
    assert "metric" not in shown
