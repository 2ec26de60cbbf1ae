"""Fig. 5: accuracy with weights removed at one place of the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acnet_pl.analysis import PruningCurve
from acnet_pl.reproduce.analysis import Analysis
from acnet_pl.reproduce.elements import Cell, Figure, Table
from acnet_pl.reproduce.grid import Grid
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.plots import Series, line_chart
from acnet_pl.reproduce.pruning import PruningSummary, compute_pruning, locations, stored_pruning, summarize
from acnet_pl.reproduce.results import GridResult, fused_file

__all__ = ["ANALYSIS"]

_STYLES = {"corner": 0, "skeleton": 1, "global": 2, "border": 3, "top_left": 4}


class _Pruning(Analysis):
    def is_due(self, grid: Grid, run: PlannedRun, folder: Path, draws: int) -> bool:
        done = {curve.where for curve in stored_pruning(folder, draws)}
        return grid.prunes(run.run) and fused_file(folder) is not None and done != set(locations(run.run.variant))

    def compute(self, run: PlannedRun, folder: Path, draws: int) -> None:
        compute_pruning(run, folder, draws)

    def collect(self, result: GridResult) -> Mapping[tuple[str, str], list[PruningSummary]]:
        """Return each model and variant's curves over all its finished networks, each with its own draws."""
        stored: dict[tuple[str, str], dict[str, list[PruningCurve]]] = {}
        for run in result.runs:
            if run.summary and run.folder:
                curves = stored.setdefault((run.planned.run.model, run.planned.run.variant), {})
                for curve in stored_pruning(run.folder, result.pruning_seeds):
                    curves.setdefault(curve.where, []).append(curve)
        return {key: [summarize(parts) for parts in curves.values()] for key, curves in stored.items() if curves}

    def as_json(self, found: list[PruningSummary]) -> Any:
        return [curve.as_dict() for curve in found]

    def figure(self, result: GridResult, found: Mapping[tuple[str, str], list[PruningSummary]]) -> Figure:
        every = [curve for curves in found.values() for curve in curves]
        highest = max(100 * mean for curve in every for mean in curve.mean)
        networks = max(curve.networks for curve in every)
        charts, numbers = [], []
        for key, curves in found.items():
            title = result.title(*key)
            series = list(map(_series, curves))
            charts.append(line_chart(series, title, "weights removed in every layer (%)", "top-1 (%)", (0, highest)))
            numbers.append(_numbers(title, curves))
        spread = f"over the {networks} networks" if networks > 1 else "over the draws in the one network"
        caption = (
            "Test accuracy with weights of every layer removed at random, at one place of the kernels (Fig. 5): mean "
            f"over trained networks of the mean over {result.pruning_seeds} draws in each, and a band of ± one "
            f"standard deviation {spread}."
        )
        return Figure(caption, charts, numbers)


def _series(curve: PruningSummary) -> Series:
    return Series(
        curve.where.replace("_", "-"),
        _STYLES[curve.where],
        [(100 * ratio, 100 * mean) for ratio, mean in zip(curve.ratios, curve.mean, strict=True)],
        [100 * std for std in curve.over_networks or curve.over_draws or ()],
    )


def _numbers(title: str, curves: Sequence[PruningSummary]) -> Table:
    ratios = sorted({ratio for curve in curves for ratio in curve.ratios})
    rows = []
    for curve in curves:
        cells = {ratio: _accuracy(curve, index) for index, ratio in enumerate(curve.ratios)}
        rows.append(
            [
                Cell(curve.where.replace("_", "-"), "label"),
                *(Cell(cells[ratio]) if ratio in cells else Cell("", "quiet") for ratio in ratios),
            ]
        )
    caption = (
        f"{title}: top-1 accuracy in percent by ratio; ± is over {curves[0].networks} networks, in parentheses over "
        f"{curves[0].draws} draws within a network."
    )
    return Table(caption, ["removed at", *(f"{r:.0%}" for r in ratios)], rows)


def _accuracy(curve: PruningSummary, index: int) -> str:
    text = f"{100 * curve.mean[index]:.1f}"
    if curve.over_networks:
        text += f" ± {100 * curve.over_networks[index]:.1f}"
    return text + (f" ({100 * curve.over_draws[index]:.1f})" if curve.over_draws else "")


ANALYSIS = _Pruning()
