from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.reproduce import plan
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.settings import SettingsParser

Fabricate = Callable[..., Path]


class RememberingParser(SettingsParser):
    """Parses each command once in the session."""

    def __init__(self) -> None:
        self.parsed: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:
        key = (str(Path.cwd()), *arguments)
        if key not in self.parsed:
            self.parsed[key] = super().__call__(arguments)
        return copy.deepcopy(self.parsed[key])


@pytest.fixture(scope="session")
def parser() -> SettingsParser:
    return RememberingParser()


@pytest.fixture(autouse=True)
def _parse_once(parser: SettingsParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line has the session's parser, too."""
    monkeypatch.setattr(plan, "SettingsParser", lambda: parser)


@pytest.fixture(scope="session")
def fabricate() -> Fabricate:
    """``fabricate(planned, top1=...)`` writes the folder that a run would leave: config, metrics, and a summary."""

    def write(
        planned: PlannedRun,
        top1: float | None = None,
        when: str = "2026-01-01T00-00-00",
        rotation: Mapping[str, float] | None = None,
        config: Mapping[str, Any] | None = None,
        seconds: float = 10.0,
    ) -> Path:
        folder = planned.runs_dir / planned.run.name / when
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config or planned.config)))
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "train/loss", "train/top1", "val/top1"])
            for epoch in range(planned.epochs):
                writer.writerow([epoch, 10 * epoch, 1.0, "", ""])
                writer.writerow([epoch, 10 * epoch + 5, 0.5, "", ""])
                writer.writerow([epoch, 10 * epoch + 9, "", "", 0.4 + 0.5 * epoch / planned.epochs])
                writer.writerow([epoch, 10 * epoch + 9, "", 0.3 + 0.5 * epoch / planned.epochs, ""])
            writer.writerow([planned.epochs, 10 * planned.epochs, "", "", 0.123])  # what `validate` adds
        if top1 is not None:
            summary = {
                "metrics": {"test/top1": top1, "test/top5": (1 + top1) / 2},
                "evaluated": "in float32",
                "rotation": {
                    "samples": 10_000,
                    "original/top1": top1,
                    "original/top5": (1 + top1) / 2,
                    **(rotation or {}),
                },
                "epochs": planned.epochs,
                "seconds_per_epoch": 2.5,
                "training_seconds": seconds,
                "fused": {"parameters_trained": 200_000, "parameters_fused": 100_000},
                "equivalence": {"max_rel_difference": 3e-7},
                "versions": {"python": "3.12", "torch": "2.9", "device": "a device"},
            }
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write
