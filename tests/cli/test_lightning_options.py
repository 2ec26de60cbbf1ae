"""Options that users of Lightning know, in one run: a plateau schedule, a ModelCheckpoint of their own."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from acnet_pl.cli import main
from acnet_pl.cli.before_training import check_accelerator


@pytest.mark.filterwarnings("ignore")
def test_a_plateau_schedule_and_a_checkpoint_callback(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.schedule", "ReduceLROnPlateau", "--model.schedule.monitor", "val/loss"]
    options += ["--model.schedule.threshold", "100", "--model.schedule.patience", "0"]  # no loss is so much better
    options += ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path / 'own'}"]
    options += ["--trainer.max_epochs", "3", "--trainer.accumulate_grad_batches", "2"]
    options += ["--runs_dir", str(tmp_path / "runs"), "--name", "plateau", "--wandb.mode", "disabled"]
    assert main(["fit", *small, *options]) == 0
    assert [*(tmp_path / "own").glob("*.ckpt")]
    (folder,) = (tmp_path / "runs" / "plateau").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        found = [(name, value) for row in csv.DictReader(file) for name, value in row.items()]
    rates = [float(value) for name, value in found if name.startswith("lr") and value]
    assert rates[0] == 0.1
    assert rates[-1] < 0.1
    assert "512 images a step (batch_size 256 × 2 accumulated batches)" in capsys.readouterr().out


def test_a_device_that_is_not_there(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = ["fit", *small, "--trainer.accelerator", "gpu", "--runs_dir", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "--trainer.accelerator gpu: this machine has none that PyTorch" in said
    assert "--trainer.accelerator cpu" in said
    assert not [*tmp_path.iterdir()]


def test_many_more_processes_than_cores_are_refused() -> None:
    cores = os.cpu_count() or 1
    check_accelerator("cpu", max(8, cores))
    check_accelerator("cpu", "auto")
    with pytest.raises(ValueError, match=rf"--trainer.devices {cores + 8} .* has {cores} cores here"):
        check_accelerator("cpu", cores + 8)
