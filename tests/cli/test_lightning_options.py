"""Options that users of Lightning know, in one run: a plateau schedule, a ModelCheckpoint of their own."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
import yaml

from acnet_pl.cli import main
from acnet_pl.cli.before_training import check_accelerator
from acnet_pl.config.errors import UsageError
from acnet_pl.config.run_options import RunParser


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


@pytest.mark.filterwarnings("ignore")
def test_the_configuration_of_an_averaging_run_is_read_again(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.05"]
    options += ["--trainer.callbacks.swa_epoch_start", "1", "--trainer.max_epochs", "2", "--test_after_fit", "false"]
    options += ["--runs_dir", str(tmp_path), "--name", "swa", "--wandb.mode", "disabled"]
    assert main(["fit", *small, *options]) == 0
    (folder,) = (tmp_path / "swa").iterdir()
    written = yaml.safe_load((folder / "config.yaml").read_text())
    (callback,) = written["trainer"]["callbacks"]
    assert callback["init_args"]["device"] == "cpu"
    assert "Unable to serialize" not in "".join(capsys.readouterr())
    assert main(["fit", "--config", str(folder / "config.yaml"), "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == written


@pytest.mark.filterwarnings("ignore")
def test_synchronised_batch_norms_without_gpus(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", *small, "--trainer.sync_batchnorm", "true", "--runs_dir", str(tmp_path), "--name", "sync"]
    command += ["--trainer.max_steps", "1", "--test_after_fit", "false", "--wandb.mode", "disabled"]
    assert main([*command, "--trainer.devices", "2", "--trainer.strategy", "ddp"]) == 1
    said = capsys.readouterr().err
    assert "synchronised batch norms need GPUs, and this run is on 2 CPU processes" in said
    assert "leave --trainer.sync_batchnorm out" in said
    assert not [*tmp_path.iterdir()], "no process has started"
    with pytest.warns(UserWarning, match=r"need GPUs, and this run is on one CPU process, .*sync_batchnorm out"):
        assert main(command) == 0


class Odd:
    """Parameters of kinds that YAML does not have; two defaults have no text at all."""

    def __init__(
        self,
        device: torch.device | str | int = torch.device("cpu"),  # noqa: B008
        dtype: torch.dtype = torch.float16,
        function: object = lambda: 1,
        weights: torch.Tensor = torch.ones(2),  # noqa: B008
    ) -> None: ...


def test_values_without_a_text_are_left_out_or_refused() -> None:
    parser = RunParser()
    parser.add_class_arguments(Odd, "odd")
    config = parser.parse_args(["--odd.device", "cuda:1", "--odd.dtype", "float64"])
    assert config.odd.device == torch.device("cuda:1")
    written = yaml.safe_load(text := parser.dump(config))
    assert written == {"odd": {"device": "cuda:1", "dtype": "torch.float64"}}
    again = parser.parse_string(text)
    assert again.odd == config.odd
    config.odd.device = 1
    assert yaml.safe_load(parser.dump(config))["odd"]["device"] == 1
    config.odd.weights = torch.zeros(2)
    with pytest.raises(UsageError, match=r"--odd\.weights: its value tensor\(\[0\., 0\.\]\) cannot be written"):
        parser.dump(config)
