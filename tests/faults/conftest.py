from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

Death = list[Any]

# A network with dropout: its masks are drawn from the global generator, which a resume must not disturb.
NETWORK = """
from torch import nn

class DropNet(nn.Module):
    def __init__(self, conv, num_classes, dropout: float = 0.2):
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout),
            conv(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(self.features(images))
"""

COMMAND = [
    *("fit", "--resume", "auto", "--name", "mortal", "--wandb.mode", "disabled"),
    *("--model.backbone", "dropnet.DropNet", "--data.image_size", "8", "--data.batch_size", "100"),
    *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--trainer.deterministic", "true"),
    *("--trainer.log_every_n_steps", "2", "--run_checkpoint.every_n_steps", "5"),
]


def environment(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "dropnet.py").write_text(NETWORK)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


@dataclass
class Outcome:
    """What a run left behind, without what time and place make of it."""

    folder: Path
    files: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        below = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        self.files = {str(path) for path in below if "wandb" not in path.parts}

    @property
    def checkpoint(self) -> dict[str, Any]:
        content = torch.load(self.folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert isinstance(content, dict)
        return content

    @property
    def metrics(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return [{k: v for k, v in row.items() if k != "time/epoch"} for row in csv.DictReader(file)]

    @property
    def summary(self) -> Any:
        text = (self.folder / "summary.json").read_text().replace(str(self.folder), "FOLDER")
        return {
            k: v for k, v in json.loads(text).items() if k not in ("seconds_per_epoch", "training_seconds", "command")
        }

    @property
    def fused(self) -> bytes:
        return (self.folder / "fused.safetensors").read_bytes()

    def assert_same_as(self, other: Outcome, mean_loss: float = 0.0) -> None:
        """Bit for bit: weights, batch-norm statistics, momentum, metrics, summary and fused file.

        ``mean_loss`` is the relative difference allowed of ``train/mean_loss`` alone: processes that go on in mid-epoch
        add the same losses in another order.
        """
        mine, theirs = self.checkpoint, other.checkpoint
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            left, right = (torch.utils._pytree.tree_flatten(content[key])[0] for content in (mine, theirs))
            assert len(left) == len(right)
            assert all(_equal(a, b) for a, b in zip(left, right, strict=True))
        assert (mine["epoch"], mine["global_step"]) == (theirs["epoch"], theirs["global_step"])
        assert self.fused == other.fused
        rows, others = self.metrics, other.metrics
        for row, its in zip(rows, others, strict=True):
            losses = [float(each.pop("train/mean_loss", "") or 0) for each in (row, its)]
            assert losses[0] == pytest.approx(losses[1], rel=mean_loss, abs=0)
        assert rows == others
        assert self.summary == other.summary
        assert self.files == other.files


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def only_run(folder: Path) -> Outcome:
    (run,) = (folder / "runs" / "mortal").iterdir()
    return Outcome(run)


class Mortal:
    """Runs command lines in processes that can be killed at a chosen moment; see mortal_runs.py."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def ask(
        self, folder: Path, death: Death | None = None, args: Sequence[str] = COMMAND, processes: int = 1
    ) -> dict[str, Any]:
        """Run a command in a folder; gives the answer of mortal_runs.py."""
        environment(folder)
        (folder / "output.txt").unlink(missing_ok=True)
        answer = self.server.call(
            "tests.faults.mortal_runs:attempt", folder=str(folder), args=list(args), death=death, processes=processes
        )
        assert isinstance(answer, dict)
        return {**answer, "output": (folder / "output.txt").read_text()}

    def run(
        self,
        folder: Path,
        *options: str,
        death: Death | None = None,
        command: Sequence[str] = COMMAND,
        processes: int = 1,
        code: int | None = None,
    ) -> tuple[str, float]:
        """Run a command in a folder; it must end as its death has it, or with a code; gives output and seconds."""
        answer = self.ask(folder, death, [*command, *options], processes)
        ends = {"at": {-9}, "after": {-9, 0}, "within": {-9, 0}, "told": {143}, "spoilt": {0}}
        expected = {code} if code is not None else ends[death[0]] if death else {0}
        assert answer["code"] in expected, answer["output"]
        return answer["output"], answer["seconds"]


@pytest.fixture(scope="session")
def mortal(server: Any) -> Mortal:
    """``mortal.run(folder, *options, death=...)``."""
    return Mortal(server)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(folder, *options)`` starts a command as a process of its own, which ends with the test."""
    processes = []

    def run(folder: Path, *options: str, launcher: Sequence[str] = ("-m", "acnet_pl")) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *launcher, *COMMAND, *options],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        started = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        for number in (process.pid, *map(int, started.stdout.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def undisturbed(mortal: Mortal, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, float]:
    """A run that nothing happened to, and the seconds that it took once everything was imported."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _, seconds = mortal.run(folder)
    return only_run(folder), seconds
