"""What a grid's runs came to: figures by model and variant, differences of pairs, the curves of training."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from acnet_pl.analysis import KernelMagnitude, PruningCurve
from acnet_pl.reproduce import analyses
from acnet_pl.reproduce.grid import Grid, Measure, Selection
from acnet_pl.reproduce.plan import PlannedRun, State, describe_data, read_summary
from acnet_pl.reproduce.statistics import Sample, paired_difference

__all__ = ["GridResult", "RunResult"]

_PROTOCOLS: Mapping[Selection, str] = {
    "last": "test accuracy of the last epoch's weights",
    "best": "test accuracy of the weights of the epoch that is best on images held out of the training set",
}


@dataclass(frozen=True)
class RunResult:
    """A run as it stands.

    Attributes:
        planned: The run.
        folder: Its folder, if it has begun.
        summary: What it came to, if it is finished.
        failed: It was run just now and failed.
    """

    planned: PlannedRun
    folder: Path | None
    summary: Mapping[str, Any] | None
    failed: bool = False

    @classmethod
    def of(cls, planned: PlannedRun, failed: bool = False) -> RunResult:
        """Look a run up on the disk."""
        folder = planned.folder()
        return cls(planned, folder, read_summary(folder) if folder else None, failed)

    @property
    def state(self) -> State:
        """How far it has come."""
        return "finished" if self.summary else "unfinished" if self.folder else "missing"

    def figure(self, measure: Measure) -> float | None:
        """A figure of the finished run, 0 to 1."""
        part, _, name = measure.key.partition("/")
        value = (self.summary or {}).get(part, {}).get(name)
        return None if value is None else float(value)

    def validation_curve(self) -> list[tuple[int, float]]:
        """Accuracy on the validation images by epoch, counted from 1."""
        if self.folder is None or not (self.folder / "metrics.csv").is_file():
            return []
        with (self.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/top1") and row.get("epoch")]
        # What `validate` logs once training is over would be an epoch more.
        points = {int(float(row["epoch"])) + 1: float(row["val/top1"]) for row in rows}
        return sorted((epoch, value) for epoch, value in points.items() if epoch <= self.planned.epochs)

    @property
    def training_seconds(self) -> float | None:
        """How long the finished run trained, without validation."""
        seconds = (self.summary or {}).get("training_seconds")
        return None if seconds is None else float(seconds)

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "name": self.planned.run.name,
            "model": self.planned.run.model,
            "variant": self.planned.run.variant,
            "seed": self.planned.run.seed,
            "state": self.state,
            "failed": self.failed,
            "folder": str(self.folder) if self.folder else None,
            "command": ["python", "-m", "acnet_pl", *self.planned.arguments],
            "training_macs": self.planned.training_macs,
            "summary": self.summary,
        }


@dataclass(frozen=True)
class GridResult:
    """A table or figure as it stands.

    Attributes:
        grid: What it consists of.
        runs: Its runs.
        recipe: Name of the recipe.
        selection: Which weights are tested.
        pruning_seeds: How often weights are drawn for Fig. 5.
    """

    grid: Grid
    runs: Sequence[RunResult]
    recipe: str
    selection: Selection
    pruning_seeds: int

    @property
    def protocol(self) -> str:
        """What the figures are, in words."""
        return _PROTOCOLS[self.selection]

    @property
    def finished(self) -> int:
        """How many runs are."""
        return sum(run.state == "finished" for run in self.runs)

    @property
    def data(self) -> str:
        """Which copy of which data."""
        return "; ".join(dict.fromkeys(describe_data(run.planned.config) for run in self.runs))

    @property
    def departures(self) -> dict[str, list[str]]:
        """Settings that differ from the recipe, as ``{"trainer.max_epochs": ["200 → 30"]}``."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            for name, (old, new) in run.planned.departures.items():
                change = f"{_brief(old)} → {_brief(new)}"
                if name != "data.init_args.root" and change not in found.setdefault(name, []):
                    found[name].append(change)
        return found

    @property
    def seeds(self) -> list[int]:
        """The seeds that were asked for."""
        return sorted({run.planned.run.seed for run in self.runs})

    def of(self, model: str, variant: str) -> list[RunResult]:
        """The runs of a model and variant, by seed."""
        return [run for run in self.runs if (run.planned.run.model, run.planned.run.variant) == (model, variant)]

    def sample(self, model: str, variant: str, measure: Measure) -> Sample:
        """A figure over the finished seeds, in percent."""
        figures = {run.planned.run.seed: run.figure(measure) for run in self.of(model, variant)}
        return Sample({seed: 100 * figure for seed, figure in figures.items() if figure is not None})

    def gain(self, model: str, variant: str, measure: Measure) -> Sample:
        """The paired difference to the baseline, in percentage points; empty where that is not part of the grid."""
        return paired_difference(
            self.sample(model, self.grid.variants[0].key, measure), self.sample(model, variant, measure)
        )

    def macs_ratio(self, model: str, variant: str) -> float | None:
        """Multiply-accumulates of a training, over those of the baseline."""
        base, own = (self.of(model, key)[0].planned.training_macs for key in (self.grid.variants[0].key, variant))
        return own / base if own and base else None

    def time_ratios(self, model: str, variant: str) -> list[float]:
        """Seconds of training over those of the baseline of the same seed, of finished pairs."""
        pairs = zip(self.of(model, self.grid.variants[0].key), self.of(model, variant), strict=True)
        seconds = [(base.training_seconds, own.training_seconds) for base, own in pairs]
        return [own / base for base, own in seconds if own and base]

    @cached_property
    def magnitudes(self) -> dict[tuple[str, str], KernelMagnitude]:
        """Fig. 6 by model and variant: of the first seed that is finished."""
        found: dict[tuple[str, str], KernelMagnitude] = {}
        for run in self._analysed("magnitude"):
            key = run.planned.run.model, run.planned.run.variant
            assert run.folder is not None
            if key not in found and (magnitude := analyses.magnitude(run.folder)) is not None:
                found[key] = magnitude
        return found

    @cached_property
    def pruning(self) -> dict[tuple[str, str], list[PruningCurve]]:
        """Fig. 5 by model and variant: the draws of all trained seeds together."""
        stored: dict[tuple[str, str], dict[str, list[PruningCurve]]] = {}
        for run in self._analysed("pruning"):
            assert run.folder is not None
            curves = stored.setdefault((run.planned.run.model, run.planned.run.variant), {})
            for curve in analyses.stored_pruning(run.folder, self.pruning_seeds):
                curves.setdefault(curve.where, []).append(curve)
        return {key: [_together(parts) for parts in curves.values()] for key, curves in stored.items() if curves}

    @property
    def unpruned(self) -> list[RunResult]:
        """Finished runs that Fig. 5 is of and whose curves are still to be computed."""
        return [
            run
            for run in self._analysed("pruning")
            if self.grid.prunes(run.planned.run)
            and run.folder is not None
            and analyses.fused_file(run.folder) is not None
            and {curve.where for curve in analyses.stored_pruning(run.folder, self.pruning_seeds)}
            != set(analyses.locations(run.planned.run.variant))
        ]

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        models, variants, measures = self.grid.models, self.grid.variants, self.grid.measures
        return {
            "title": self.grid.title,
            "recipe": {"name": self.recipe, "title": self.grid.recipes[self.recipe].title},
            "protocol": self.protocol,
            "data": self.data,
            "runs_finished": self.finished,
            "runs_planned": len(self.runs),
            "departures": self.departures,
            "figures": [
                {
                    "model": model.key,
                    "variant": variant.key,
                    "measure": measure.key,
                    "percent": self.sample(model.key, variant.key, measure).as_dict(),
                    "gain": self.gain(model.key, variant.key, measure).as_dict(),
                    "published": {
                        published.source: {"percent": value, "recipe": published.recipe}
                        for published in self.grid.published
                        if (value := published.values.get((model.key, variant.key, measure.key))) is not None
                    },
                }
                for model in models
                for variant in variants
                for measure in measures
            ],
            "magnitude": {"/".join(key): magnitude.as_dict() for key, magnitude in self.magnitudes.items()},
            "pruning": {"/".join(key): [curve.as_dict() for curve in curves] for key, curves in self.pruning.items()},
            "runs": [run.as_dict() for run in self.runs],
        }

    def _analysed(self, analysis: str) -> list[RunResult]:
        return [run for run in self.runs if run.state == "finished" and analysis in self.grid.analyses]


def _together(curves: Sequence[PruningCurve]) -> PruningCurve:
    ratios = [ratio for ratio in curves[0].ratios if all(ratio in curve.ratios for curve in curves)]
    accuracies = [
        tuple(value for curve in curves for value in curve.accuracies[curve.ratios.index(ratio)]) for ratio in ratios
    ]
    return PruningCurve(curves[0].where, tuple(ratios), tuple(range(len(accuracies[0]))), tuple(accuracies))


def _brief(value: Any) -> str:
    text = str(value)
    return text.rpartition(".")[2] if text.startswith("acnet_pl.") else text
