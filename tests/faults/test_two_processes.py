"""Two processes under torchrun: one is killed, or the job is told to stop; it goes on to the right step."""

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

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
OPTIONS = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "12"]
STEPS = 12 * 11


@pytest.fixture(autouse=True)
def new_store_for_every_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise a restarted process may read the address of its dead peer, and the restart fails in Gloo.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


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


@pytest.mark.faults  # a restart under torchrun takes minutes on a busy machine
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_is_killed(rank: int, start: Any, tmp_path: Path) -> None:
    process = start(tmp_path, *OPTIONS, launcher=[*TORCHRUN, "--max-restarts=1", "-m", "acnet_pl"])
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


def test_sigterm_to_the_job(start: Any, tmp_path: Path) -> None:
    process = start(tmp_path, *OPTIONS, "--trainer.max_epochs", "10000", launcher=[*TORCHRUN, "-m", "acnet_pl"])
    wait_for_checkpoint(process, tmp_path)
    children = dict(ranks(process.pid))
    for child in children.values():
        os.kill(child, signal.SIGTERM)
    output, errors = process.communicate(timeout=200)
    assert f"exitcode  : {128 + signal.SIGTERM}" in output + errors, output + errors
    assert "Stopped by SIGTERM" in output + errors
    path = checkpoint(tmp_path)
    assert path is not None
    assert torch.load(path, weights_only=True)["acnet_pl"]["steps_logged"] > 0
