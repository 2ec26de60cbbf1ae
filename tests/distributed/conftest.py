"""Runs of the command line in one process, or in two that form a group."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

COMMAND = [
    *("--model.backbone", "ResNetCifar", "--model.backbone.depth", "8"),
    *("--data.image_size", "8", "--data.batch_size", "128", "--data.eval_batch_size", "128"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--wandb.mode", "disabled"),
]
# On how many devices of how many machines two processes are.
PLACES = {"torchrun": ("2", "1"), "slurm": ("1", "2"), "nodes": ("1", "2")}


@dataclass
class Finished:
    """What a command left behind.

    Attributes:
        folder: Where it was run.
        outputs: What each process printed.
        written: Below ``folder``, how often each process opened to write, made or renamed what.
    """

    folder: Path
    outputs: list[str]
    written: list[Counter[str]]

    @property
    def run(self) -> Path:
        """The one folder below ``runs/``."""
        (run,) = self.folder.glob("runs/*/*")
        return run

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return content

    @property
    def fused(self) -> dict[str, Tensor]:
        return load_file(self.run / "fused.safetensors")

    def curve(self, name: str) -> list[float]:
        """All values of a logged metric."""
        with (self.run / "metrics.csv").open(newline="") as file:
            return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


Launch = Callable[..., Finished]


@pytest.fixture(scope="session")
def launch(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """``launch(*args, processes=1, launcher="torchrun")`` runs a command line to its end; see ranks.py."""

    def run(*args: str, processes: int = 1, launcher: str = "torchrun") -> Finished:
        folder = tmp_path_factory.mktemp("ranks").resolve()
        command = [args[0], *COMMAND, *args[1:]]
        if processes > 1:
            devices, nodes = PLACES[launcher]
            command += ["--trainer.strategy", "ddp", "--trainer.devices", devices, "--trainer.num_nodes", nodes]
        codes = server.call(
            "tests.distributed.ranks:run", folder=str(folder), args=command, processes=processes, launcher=launcher
        )
        outputs = [(folder / f"rank{rank}.txt").read_text() for rank in range(processes)]
        assert codes == [0] * processes, outputs
        written = [Counter(json.loads((folder / f"rank{rank}.json").read_text())) for rank in range(processes)]
        return Finished(folder, outputs, written)

    return run
