"""The figures of a report: gain over cost, those of its analyses, training curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from statistics import fmean, stdev

from acnet_pl.reproduce.analysis import load_analysis
from acnet_pl.reproduce.costs import gain_over_cost
from acnet_pl.reproduce.elements import Figure
from acnet_pl.reproduce.plots import Chart, Series, line_chart
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.statistics import CONFIDENCE

__all__ = ["figures"]

_COURSES = (
    ("validation_top1", "validation top-1 (%)", 100),
    ("train_top1", "training top-1 (%)", 100),
    ("train_loss", "training loss", 1),
    ("validation_loss", "validation loss", 1),
    ("learning_rate", "learning rate", 1),
    ("skeleton_share", "skeleton's share of the kernels (%)", 100),
    ("fused_difference", "fused network's largest relative difference", 1),
    ("seconds", "seconds per epoch", 1),
)


def figures(result: GridResult) -> Iterator[Figure]:
    """Yield the figures for which there are numbers.

    Args:
        result: The grid.
    """
    if result.grid.costs and (costs := list(gain_over_cost(result))):
        yield Figure(
            "Gain over plain against what the training costs: mean over pairs of one seed, and its "
            f"{CONFIDENCE:.0%} interval as a line. Up and to the left is better; the plain network is at (1, 0).",
            costs,
        )
    for name, found in result.analysed.items():
        if found:
            yield load_analysis(name).figure(result, found)
    charts = list(_training(result))
    if charts:
        yield Figure(
            "Training curves: mean over seeds, a band of ± one standard deviation, and a pale line for each seed. "
            "Training figures are measured on augmented images in training mode. Validation runs in the precision of "
            "the training. If no training images are held out, the validation images are the test images, and no "
            "epoch is selected by them. The numbers are those of metrics.csv in each run's folder.",
            charts,
        )


def _training(result: GridResult) -> Iterator[Chart]:
    for model in result.grid.models:
        for name, label, factor in _COURSES:
            series: list[Series] = []
            for style, variant in enumerate(result.grid.variants):
                runs = [run.curve() for run in result.of(model.key, variant.key)]
                curves = [
                    {
                        one.epoch: factor * value
                        for one in run
                        if (value := getattr(one, name)) is not None and isfinite(value)  # gaps where it diverged
                    }
                    for run in runs
                ]
                series += _progress(variant.title, style, [curve for curve in curves if curve])
            if series:
                yield line_chart(series, model.title, "epoch", label)


def _progress(title: str, style: int, curves: Sequence[Mapping[int, float]]) -> Iterator[Series]:
    """Yield each seed's curve, and their mean with its band."""
    if len(curves) > 1:
        yield from (Series("", style, sorted(curve.items()), faint=True) for curve in curves)
    common = sorted(set(curves[0]).intersection(*curves[1:])) if curves else []
    if common:
        values = [[curve[epoch] for curve in curves] for epoch in common]
        band = [stdev(one) for one in values] if len(curves) > 1 else ()
        yield Series(title, style, list(zip(common, map(fmean, values), strict=True)), band)
