"""Results of a grid's runs: figures by model and variant, paired differences, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from acnet_pl.reproduce.analysis import load_analysis
from acnet_pl.reproduce.departures import standing_departures
from acnet_pl.reproduce.fixed_plan import FixedPlan, remarks
from acnet_pl.reproduce.grid import Grid, Measure, Selection
from acnet_pl.reproduce.mixture import copied, mixed, trained_again
from acnet_pl.reproduce.plan import describe_data
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.statistics import Correlation, Sample, adjusted, correlation, in_percent, paired_difference
from acnet_pl.reproduce.summary_file import summary_fault

__all__ = ["GridResult", "fused_file"]

_PROTOCOLS: Mapping[Selection, str] = {
    "last": "test accuracy of the last epoch's weights, fused, in float32",
    "best": "test accuracy, fused, in float32, of the weights that are best on images held out of the training set",
}


@dataclass(frozen=True)
class GridResult:
    """Current state of a table or figure.

    Attributes:
        grid: Definition of the table or figure.
        runs: Its runs.
        recipe: Name of the recipe.
        selection: Which weights are tested.
        pruning_seeds: Number of random draws for Fig. 5.
        recorded: Seeds and epochs that were recorded before runs were begun.
    """

    grid: Grid
    runs: Sequence[RunResult]
    recipe: str
    selection: Selection
    pruning_seeds: int
    recorded: Sequence[FixedPlan] = ()

    @property
    def fixed(self) -> list[str]:
        """Return when seeds and epochs were fixed, and whether others are mixed in, one sentence per network."""
        return remarks(self.recorded, self.grid, [run.planned for run in self.runs])

    @property
    def protocol(self) -> str:
        """Return what the figures are, in words."""
        return _PROTOCOLS[self.selection]

    @property
    def finished(self) -> int:
        """Return the number of finished runs."""
        return sum(run.state == "finished" for run in self.runs)

    @property
    def damaged(self) -> list[str]:
        """Return the summaries that are left out, each with the reason."""
        faults = {run.folder: summary_fault(run.folder) for run in self.runs if run.folder and not run.summary}
        return [f"{folder}/summary.json: {fault}" for folder, fault in faults.items() if fault]

    @property
    def data(self) -> str:
        """Return which copy of which data was used."""
        return "; ".join(dict.fromkeys(describe_data(run.planned.config) for run in self.runs))

    @property
    def departures(self) -> dict[str, list[str]]:
        """Return settings that differ from the recipe, as ``{"trainer.max_epochs": ["200 → 30"]}``."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            for name, (old, new) in run.planned.departures.items():
                change = f"{_brief(old)} → {_brief(new)}"
                if name != "data.init_args.root" and change not in found.setdefault(name, []):
                    found[name].append(change)
        return found

    @property
    def seeds(self) -> list[int]:
        """Return the requested seeds."""
        return sorted({run.planned.run.seed for run in self.runs})

    def of(self, model: str, variant: str) -> list[RunResult]:
        """Return the runs of a model and variant, by seed."""
        return [run for run in self.runs if (run.planned.run.model, run.planned.run.variant) == (model, variant)]

    def sample(self, model: str, variant: str, measure: Measure) -> Sample:
        """Return a figure over the finished seeds, in percent."""
        return in_percent({run.planned.run.seed: run.figure(measure) for run in self.of(model, variant)})

    def gain(self, model: str, variant: str, measure: Measure) -> Sample:
        """Return the paired differences from the baseline, in percentage points; empty without pairs."""
        return paired_difference(
            self.sample(model, self.grid.variants[0].key, measure), self.sample(model, variant, measure)
        )

    def correlation(self, model: str, variant: str, measure: Measure) -> Correlation:
        """Return the correlation of a variant's figures with the baseline's over pairs of one seed."""
        base = self.sample(model, self.grid.variants[0].key, measure)
        return correlation(base, self.sample(model, variant, measure))

    def adjusted(self, measure: Measure) -> dict[tuple[str, str], float | None]:
        """Return Holm-adjusted p of a measure's gains with two pairs, by model and variant; None without spread."""
        keys = [(model.key, variant.key) for model in self.grid.models for variant in self.grid.variants[1:]]
        return adjusted({key: self.gain(*key, measure) for key in keys})

    @property
    def test_images(self) -> int | None:
        """Return the number of test images of the finished runs; None if they differ in it."""
        rotations = [run.summary.get("rotation", {}) for run in self.runs if run.summary]
        counts = {int(samples) for rotation in rotations if (samples := rotation.get("samples"))}
        return counts.pop() if len(counts) == 1 else None

    @property
    def fingerprint_remark(self) -> str:
        """Return which copy of the data the finished runs were tested on, in one sentence."""
        found = {run.summary.get("data_fingerprint") for run in self.runs if run.summary} - {None}
        if not found:
            return "The summaries have no fingerprint of the data, so which copy of the images was used is unknown."
        without = sum("data_fingerprint" not in run.summary for run in self.runs if run.summary)
        unknown = f" ({without} of the {self.finished} runs have none)" if without else ""
        return f"Fingerprint of the test images: {', '.join(sorted(map(str, found)))}{unknown}."

    @property
    def mixed(self) -> list[str]:
        """Return what differs among the finished runs besides what is compared, and runs copied or trained again."""
        return [*mixed(self.runs), *copied(self.runs), *trained_again(self.runs)]

    def macs_ratio(self, model: str, variant: str) -> float | None:
        """Return the multiply-accumulates of a training relative to the baseline."""
        base, own = (self.of(model, key)[0].planned.training_macs for key in (self.grid.variants[0].key, variant))
        return own / base if own and base else None

    def cost_ratios(self, model: str, variant: str) -> tuple[float, float]:
        """Return training parameters and bytes kept of the forward pass, relative to the baseline."""
        base, own = (self.of(model, key)[0].planned.cost for key in (self.grid.variants[0].key, variant))
        return own.parameters / base.parameters, own.kept_bytes / base.kept_bytes

    def time_ratios(self, model: str, variant: str) -> list[float]:
        """Return training times relative to the baseline of the same seed, of pairs finished on one kind of device."""
        pairs = zip(self.of(model, self.grid.variants[0].key), self.of(model, variant), strict=True)
        seconds = [
            (b.training_seconds, own.training_seconds) for b, own in pairs if b.device and b.device == own.device
        ]
        return [own / base for base, own in seconds if own and base]

    @cached_property
    def analysed(self) -> dict[str, Mapping[tuple[str, str], Any]]:
        """Return the results of the grid's analyses, by name, then by model and variant."""
        return {name: load_analysis(name).collect(self) for name in self.grid.analyses}

    def due(self, analysis: str) -> list[RunResult]:
        """Return finished runs for which an analysis is still to be computed."""
        due = load_analysis(analysis).is_due
        finished = [(run, run.folder) for run in self.runs if run.state == "finished"]
        return [run for run, folder in finished if folder and due(self.grid, run.planned, folder, self.pruning_seeds)]

    def title(self, model: str, variant: str) -> str:
        """Return the title of a model and variant in this grid."""
        models = {one.key: one.title for one in self.grid.models}
        variants = {one.key: one.title for one in self.grid.variants}
        return variants[variant] if len(models) == 1 else f"{models[model]}, {variants[variant]}"

    def as_dict(self) -> dict[str, Any]:
        """Return the grid for results.json."""
        models, variants, measures = self.grid.models, self.grid.variants, self.grid.measures
        return {
            "title": self.grid.title,
            "recipe": {"name": self.recipe, "title": self.grid.recipes[self.recipe].title},
            "protocol": self.protocol,
            "data": self.data,
            "runs_finished": self.finished,
            "runs_planned": len(self.runs),
            "fixed": self.fixed,
            "plans": [asdict(plan) for plan in self.recorded if plan.grid == self.grid.name],
            "mixed": self.mixed,
            "standing_departures": list(standing_departures(self.grid, self.recipe, self.departures)),
            "test_images": self.test_images,
            "departures": self.departures,
            "figures": [
                {
                    "model": model.key,
                    "variant": variant.key,
                    "measure": measure.key,
                    "percent": self.sample(model.key, variant.key, measure).as_dict(),
                    **self._gain(model.key, variant.key, measure),
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
            **{name: self._as_json(name) for name in self.grid.analyses},
            "runs": [run.as_dict() for run in self.runs],
        }

    def _gain(self, model: str, variant: str, measure: Measure) -> dict[str, Any]:
        if variant == self.grid.variants[0].key:
            return {}
        p_values = self.adjusted(measure)
        holm_p = {"p_holm": p_values.get((model, variant)), "comparisons": len(p_values)}
        correlated = {"correlation": asdict(self.correlation(model, variant, measure))}
        over = {"over": self.grid.variants[0].key}
        return {"gain": {**over, **self.gain(model, variant, measure).as_dict(), **holm_p, **correlated}}

    def _as_json(self, analysis: str) -> dict[str, Any]:
        as_json = load_analysis(analysis).as_json
        return {"/".join(key): as_json(found) for key, found in self.analysed[analysis].items()}


def fused_file(folder: Path) -> Path | None:
    """Return the fused network of a run's folder, or None where it has none."""
    path = folder / "fused.safetensors"
    return path if path.is_file() else None


def _brief(value: Any) -> str:
    text = str(value)
    return text.rpartition(".")[2] if text.startswith("acnet_pl.") else text
