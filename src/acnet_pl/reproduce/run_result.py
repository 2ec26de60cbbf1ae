"""Result of one run: its summary and curve, from its folder or from a record of another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acnet_pl.reproduce.curves import EpochFigures, read_curve
from acnet_pl.reproduce.grid import Measure
from acnet_pl.reproduce.plan import PlannedRun, State
from acnet_pl.reproduce.records import RecordedRun
from acnet_pl.reproduce.summary_file import figure_of, read_summary

__all__ = ["RunResult"]


@dataclass(frozen=True)
class RunResult:
    """Current state of a run.

    Attributes:
        planned: The run.
        folder: Its folder, if it has begun.
        summary: Content of its summary.json, if it is finished.
        failed: It was run just now and failed.
        record: The record that it is taken from, if it was finished on another machine alone.
    """

    planned: PlannedRun
    folder: Path | None
    summary: Mapping[str, Any] | None
    failed: bool = False
    record: RecordedRun | None = None

    @classmethod
    def of(cls, planned: PlannedRun, failed: bool = False) -> RunResult:
        """Read a run's state from disk, or from the record where it is not finished on disk."""
        folder = planned.folder()
        summary = read_summary(folder) if folder else None
        if summary is None and (record := planned.record):
            return cls(planned, None, record.summary, record=record)
        return cls(planned, folder, summary, failed)

    @property
    def state(self) -> State:
        """Return the progress of the run."""
        return "finished" if self.summary else "unfinished" if self.folder else "missing"

    def figure(self, measure: Measure) -> float | None:
        """Return a figure of the finished run, 0 to 1."""
        return figure_of(self.summary or {}, measure.key, self.planned.validates_on_test_images)

    def curve(self) -> list[EpochFigures]:
        """Return the figures of each epoch from metrics.csv, or from the record."""
        if self.record:
            return list(self.record.curve)
        path = self.folder / "metrics.csv" if self.folder else None
        return read_curve(path, self.planned.epochs) if path else []

    @property
    def training_seconds(self) -> float | None:
        """Return the training time of a finished run, without validation."""
        seconds = (self.summary or {}).get("training_seconds")
        return None if seconds is None else float(seconds)

    @property
    def device(self) -> str | None:
        """Return what a finished run was trained on, in words."""
        versions = (self.summary or {}).get("versions", {})
        return None if "device" not in versions else str(versions["device"])

    def as_dict(self) -> dict[str, Any]:
        """Return the run for results.json."""
        command = ["python", "-m", "acnet_pl", *self.planned.arguments]
        folder = str(self.folder) if self.folder else None
        if self.record:
            command, folder = [*self.record.command], self.record.folder
        return {
            "name": self.planned.run.name,
            "model": self.planned.run.model,
            "variant": self.planned.run.variant,
            "seed": self.planned.run.seed,
            "state": self.state,
            "failed": self.failed,
            "folder": folder,
            "command": command,
            "training_macs": self.planned.training_macs,
            "summary": self.summary,
            "curve": [asdict(one) for one in self.curve()],
        }
