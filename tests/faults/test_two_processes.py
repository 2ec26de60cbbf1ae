"""Two processes under torchrun: one is killed, or the job is told to stop; it goes on to the same end."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--rotation.enabled", "false"]
STEP = "acnet_pl.modules:ImageClassifier.training_step"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
LONG = [*TWO, "--trainer.max_epochs", "12"]
STEPS = 12 * 11


@pytest.fixture(scope="module")
def two_undisturbed(mortal: Any, undisturbed: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("two")
    mortal.run(folder, *TWO, processes=2)
    (run,) = (folder / "runs" / "mortal").iterdir()
    return type(undisturbed[0])(run)


# One by SIGKILL, or both by SIGTERM; in the second epoch.
@pytest.mark.parametrize("death", [["at", STEP, 20], ["told", STEP, 15]], ids=["killed", "told"])
def test_a_restarted_job_ends_with_the_same_bits(
    death: list[Any], mortal: Any, two_undisturbed: Any, tmp_path: Path
) -> None:
    output, _ = mortal.run(tmp_path, *TWO, processes=2, death=death, code=0)
    assert output.count("from last.ckpt") == 1
    assert output.count("Stopped by SIGTERM") == (death[0] == "told")
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    type(two_undisturbed)(run).assert_same_as(two_undisturbed, mean_loss=1e-6)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3 * 11


def test_both_pass_over_a_batch_that_is_not_finite_in_one(mortal: Any, tmp_path: Path) -> None:
    output, _ = mortal.run(tmp_path, *TWO, "--nonfinite.skip", "1", processes=2, death=["spoilt", STEP, 14], code=0)
    assert (
        "Passing over batch 1 of 1: loss not finite at step 13 in process 1 (counted from 0: epoch 1, batch 2, images ["
        in output
    )
    assert "the images themselves are not finite" in output
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3 * 11
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    with (run / "metrics.csv").open(newline="") as file:
        assert [row["train/skipped_batches"] for row in csv.DictReader(file) if row["train/skipped_batches"]] == ["1.0"]


def checkpoint(folder: Path) -> Path | None:
    return next(folder.glob("runs/mortal/*/checkpoints/last.ckpt"), None)


def ranks(launcher: int) -> Iterator[tuple[int, int]]:
    """Rank and process id of the training processes that a torchrun started."""
    for line in subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True
    ).stdout.split():
        variables = Path("/proc", line, "environ").read_bytes().split(b"\0")
        for variable in variables:
            if variable.startswith(b"RANK="):
                yield int(variable.removeprefix(b"RANK=")), int(line)


def wait_for_checkpoint(process: Any, folder: Path) -> None:
    deadline = time.monotonic() + 300
    while checkpoint(folder) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_is_killed(rank: int, start: Any, tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, launcher=[*TORCHRUN, "--max-restarts=1", "-m", "acnet_pl"])
    wait_for_checkpoint(process, tmp_path)
    os.kill(dict(ranks(process.pid))[rank], signal.SIGKILL)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, output + errors
    assert "Going on with the run" in output + errors
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == STEPS
    assert (run / "summary.json").is_file()
    assert not (run / "UNFINISHED").exists()
    with (run / "metrics.csv").open(newline="") as file:
        losses = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"] and not row["train/top1"]]
    assert losses == list(range(1, STEPS, 2))  # every second step once


@pytest.mark.faults
@pytest.mark.parametrize("told", ["processes", "torchrun"])
def test_sigterm_to_the_job(told: str, start: Any, tmp_path: Path) -> None:
    process = start(tmp_path, *TWO, "--trainer.max_epochs", "10000", launcher=[*TORCHRUN, "-m", "acnet_pl"])
    wait_for_checkpoint(process, tmp_path)
    for child in dict(ranks(process.pid)).values() if told == "processes" else [process.pid]:
        os.kill(child, signal.SIGTERM)
    output, errors = process.communicate(timeout=200)
    assert "Stopped by SIGTERM" in output + errors, output + errors
    if told == "processes":
        assert f"exitcode  : {128 + signal.SIGTERM}" in output + errors
    path = checkpoint(tmp_path)
    assert path is not None
    assert torch.load(path, weights_only=True)["acnet_pl"]["steps_logged"] > 0
