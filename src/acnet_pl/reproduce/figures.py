"""The figures of a report: training curves, Fig. 5's pruning curves, Fig. 6's heat maps."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from acnet_pl.analysis import KernelMagnitude, PruningCurve
from acnet_pl.reproduce.blocks import Cell, Figure, Table
from acnet_pl.reproduce.charts import Series, heat_map, line_chart
from acnet_pl.reproduce.results import GridResult

__all__ = ["figures"]

_PRUNING_STYLES = {"corner": 0, "skeleton": 1, "global": 2, "border": 3, "top_left": 4}


def figures(result: GridResult) -> Iterator[Figure]:
    """The figures for which there are numbers.

    Args:
        result: The grid.
    """
    if result.magnitudes:
        yield _magnitude(result)
    if result.pruning:
        yield _pruning(result)
    charts = list(_training(result))
    if charts:
        yield Figure(
            "Accuracy on the validation images during training: the mean over seeds, and each seed behind it. Where no "
            "training images are held out, these are the test images; nothing is selected by them.",
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
                [100 * std for std in curve.std],
            )
            for curve in curves
        ]
        charts.append(line_chart(series, title, "weights removed in every layer (%)", "top-1 (%)", (0, highest)))
        numbers.append(_pruning_table(title, curves))
    draws = sorted({len(curve.seeds) for curves in result.pruning.values() for curve in curves})
    caption = (
        "Test accuracy with weights of every layer removed at random, at one place of the kernels (Fig. 5): mean and "
        f"band of ± one standard deviation, n = {', '.join(map(str, draws))} "
        f"({result.pruning_seeds} draws for each trained network)."
    )
    return Figure(caption, charts, numbers)


def _pruning_table(title: str, curves: list[PruningCurve]) -> Table:
    ratios = sorted({ratio for curve in curves for ratio in curve.ratios})
    rows = []
    for curve in curves:
        cells = dict(zip(curve.ratios, zip(curve.mean, curve.std, strict=True), strict=True))
        rows.append(
            [
                Cell(curve.where.replace("_", "-"), "label"),
                *(
                    Cell("{:.1f} ± {:.1f}".format(*(100 * value for value in cells[ratio])))
                    if ratio in cells
                    else Cell("", "quiet")
                    for ratio in ratios
                ),
            ]
        )
    return Table(f"{title}: top-1 accuracy in percent by ratio.", ["removed at", *(f"{r:.0%}" for r in ratios)], rows)


def _training(result: GridResult) -> Iterator[str]:
    for model in result.grid.models:
        series = []
        for style, variant in enumerate(result.grid.variants):
            curves = [dict(run.validation_curve()) for run in result.of(model.key, variant.key)]
            curves = [curve for curve in curves if curve]
            if not curves:
                continue
            if len(curves) > 1:
                series += [Series("", style, _percent(curve), faint=True) for curve in curves]
            common = sorted(set(curves[0]).intersection(*curves[1:]))
            mean = {epoch: fmean(curve[epoch] for curve in curves) for epoch in common}
            if mean:
                series.append(Series(variant.title, style, _percent(mean)))
        if series:
            yield line_chart(series, model.title, "epoch", "top-1 (%)")


def _percent(curve: dict[int, float]) -> list[tuple[float, float]]:
    return [(epoch, 100 * curve[epoch]) for epoch in sorted(curve)]
