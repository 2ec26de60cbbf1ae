"""The figures of a report: training curves, Fig. 5's pruning curves, Fig. 6's heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from acnet_pl.analysis import KernelMagnitude
from acnet_pl.reproduce.costs import gain_over_cost
from acnet_pl.reproduce.elements import Cell, Figure, Table
from acnet_pl.reproduce.plots import Chart, Series, heat_map, line_chart
from acnet_pl.reproduce.pruning import PruningSummary
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.statistics import CONFIDENCE

__all__ = ["figures"]

_COURSES = (
    ("validation_top1", "validation top-1 (%)", 100),
    ("train_top1", "training top-1 (%)", 100),
    ("train_loss", "training loss", 1),
)
_PRUNING_STYLES = {"corner": 0, "skeleton": 1, "global": 2, "border": 3, "top_left": 4}


def figures(result: GridResult) -> Iterator[Figure]:
    """The figures for which there are numbers.

    Args:
        result: The grid.
    """
    if result.grid.costs and (costs := list(gain_over_cost(result))):
        yield Figure(
            "Gain over plain against what the training costs: mean over pairs of one seed, and its "
            f"{CONFIDENCE:.0%} interval as a line. Up and to the left is better; the plain network is at (1, 0).",
            costs,
        )
    if result.magnitudes:
        yield _magnitude(result)
    if result.pruning:
        yield _pruning(result)
    charts = list(_training(result))
    if charts:
        yield Figure(
            "The course of training: mean over seeds, band of ± one standard deviation, and each seed behind it. "
            "Training figures are of augmented images in training mode. Validation accuracy is in the precision of the "
            "training; where no training images are held out it is of the test images, and nothing is selected by it.",
            charts,
        )


def _title(result: GridResult, model: str, variant: str) -> str:
    models = {one.key: one.title for one in result.grid.models}
    variants = {one.key: one.title for one in result.grid.variants}
    return variants[variant] if len(models) == 1 else f"{models[model]}, {variants[variant]}"


def _magnitude(result: GridResult) -> Figure:
    charts, rows = [], []
    for (model, variant), magnitude in result.magnitudes.items():
        title = _title(result, model, variant)
        charts.append(heat_map(magnitude.average, title))
        rows.append(_magnitude_row(title, magnitude))
    columns = ("network", "kernels", "skeleton, sum", "skeleton, share", "corners, sum", "border, sum")
    caption = (
        "Average kernel magnitude A (Eq. 9-10) of the folded networks of the first finished seed: the larger, the more "
        "important the position."
    )
    matrices = [
        Table(
            f"A of {_title(result, *key)}.",
            ["row", *(f"column {column + 1}" for column in range(magnitude.kernel_size))],
            [
                [Cell(str(row + 1), "label"), *(Cell(f"{value:.3f}") for value in values)]
                for row, values in enumerate(magnitude.average)
            ],
        )
        for key, magnitude in result.magnitudes.items()
    ]
    return Figure(caption, charts, [Table("Sums of A over parts of the kernel.", columns, rows), *matrices])


def _magnitude_row(title: str, magnitude: KernelMagnitude) -> list[Cell]:
    size = magnitude.kernel_size
    return [
        Cell(title, "label"),
        Cell(f"{size}×{size}, {len(magnitude.layers)} layers", "label"),
        Cell(f"{magnitude.total('skeleton'):.3f}"),
        Cell(f"{magnitude.share('skeleton'):.1%}"),
        Cell(f"{magnitude.total('corner'):.3f}"),
        Cell(f"{magnitude.total('border'):.3f}"),
    ]


def _pruning(result: GridResult) -> Figure:
    charts, numbers = [], []
    highest = max(100 * mean for curves in result.pruning.values() for curve in curves for mean in curve.mean)
    for (model, variant), curves in result.pruning.items():
        title = _title(result, model, variant)
        series = [
            Series(
                curve.where.replace("_", "-"),
                _PRUNING_STYLES[curve.where],
                [(100 * ratio, 100 * mean) for ratio, mean in zip(curve.ratios, curve.mean, strict=True)],
                [100 * std for std in curve.over_networks or curve.over_draws or ()],
            )
            for curve in curves
        ]
        charts.append(line_chart(series, title, "weights removed in every layer (%)", "top-1 (%)", (0, highest)))
        numbers.append(_pruning_table(title, curves))
    networks = max(curve.networks for curves in result.pruning.values() for curve in curves)
    spread = f"over the {networks} networks" if networks > 1 else "over the draws in the one network"
    caption = (
        "Test accuracy with weights of every layer removed at random, at one place of the kernels (Fig. 5): mean over "
        f"trained networks of the mean over {result.pruning_seeds} draws in each, and a band of ± one standard "
        f"deviation {spread}."
    )
    return Figure(caption, charts, numbers)


def _pruning_table(title: str, curves: list[PruningSummary]) -> Table:
    ratios = sorted({ratio for curve in curves for ratio in curve.ratios})
    rows = []
    for curve in curves:
        cells = {ratio: _pruned(curve, index) for index, ratio in enumerate(curve.ratios)}
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


def _pruned(curve: PruningSummary, index: int) -> str:
    text = f"{100 * curve.mean[index]:.1f}"
    if curve.over_networks:
        text += f" ± {100 * curve.over_networks[index]:.1f}"
    return text + (f" ({100 * curve.over_draws[index]:.1f})" if curve.over_draws else "")


def _training(result: GridResult) -> Iterator[Chart]:
    for model in result.grid.models:
        for name, label, factor in _COURSES:
            series: list[Series] = []
            for style, variant in enumerate(result.grid.variants):
                runs = [run.curve() for run in result.of(model.key, variant.key)]
                curves = [
                    {one.epoch: factor * value for one in run if (value := getattr(one, name)) is not None}
                    for run in runs
                ]
                series += _course(variant.title, style, [curve for curve in curves if curve])
            if series:
                yield line_chart(series, model.title, "epoch", label)


def _course(title: str, style: int, curves: Sequence[Mapping[int, float]]) -> Iterator[Series]:
    """Each seed's curve, and their mean with its band."""
    if len(curves) > 1:
        yield from (Series("", style, sorted(curve.items()), faint=True) for curve in curves)
    common = sorted(set(curves[0]).intersection(*curves[1:])) if curves else []
    if common:
        values = [[curve[epoch] for curve in curves] for epoch in common]
        band = [stdev(one) for one in values] if len(curves) > 1 else ()
        yield Series(title, style, list(zip(common, map(fmean, values), strict=True)), band)
