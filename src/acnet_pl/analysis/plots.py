"""The article's figures from the numbers of this package: Fig. 5 and Fig. 6. Each gives a Figure to show or save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from acnet_pl.analysis.kernels import KernelMagnitude
from acnet_pl.analysis.locations import Location
from acnet_pl.analysis.pruning import PruningCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_kernel_magnitude", "plot_pruning_curves"]

# The colour-blind-safe palette of Okabe and Ito; markers and dashes tell the curves apart in black and white too.
_STYLES: dict[Location, tuple[str, str, str]] = {
    "corner": ("#0072B2", "o", "-"),
    "skeleton": ("#D55E00", "s", "-"),
    "global": ("#444444", "^", "--"),
    "border": ("#CC79A7", "D", "-."),
    "top_left": ("#009E73", "v", ":"),
}


def plot_kernel_magnitude(*magnitudes: KernelMagnitude, titles: Sequence[str] = (), layer: str | None = None) -> Figure:
    """Heat maps of average kernel magnitude matrices side by side, with their numbers, as in Fig. 6.

    All have the same colour scale, 0 to 1; darker is larger.

    Args:
        magnitudes: At least one.
        titles: One for each, or none.
        layer: Show this layer's matrix instead of the average.

    Raises:
        ValueError: Nothing to plot, or the number of titles differs.
    """
    from matplotlib.figure import Figure

    _check_panels(len(magnitudes), titles)
    figure = Figure(figsize=(2.6 * len(magnitudes) + 0.7, 3.0), layout="constrained")
    axes = figure.subplots(1, len(magnitudes), squeeze=False)[0]
    for index, (ax, magnitude) in enumerate(zip(axes, magnitudes, strict=True)):
        matrix = magnitude.average if layer is None else magnitude.layers[layer]
        image = ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                size = min(13, 40 / len(matrix))
                color = "white" if value > 0.6 else "black"
                ax.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=size)
        edges = [position - 0.5 for position in range(1, len(matrix))]
        ax.hlines(edges, -0.5, len(matrix) - 0.5, color="white", linewidth=1.5)
        ax.vlines(edges, -0.5, len(matrix) - 0.5, color="white", linewidth=1.5)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if titles:
            ax.set_title(_panel_title(index, titles), fontsize=11)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8, pad=0.02, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.set_label("average magnitude" if layer is None else "magnitude", fontsize=10)
    return figure


def plot_pruning_curves(*panels: Sequence[PruningCurve], titles: Sequence[str] = ()) -> Figure:
    """Accuracy against sparsity ratio, mean with a band of ± one standard deviation, as in Fig. 5.

    Args:
        panels: One sequence of curves for each model, at least one; the panels share their axes.
        titles: One for each panel, or none.

    Raises:
        ValueError: Nothing to plot, or the number of titles differs.
    """
    from matplotlib.figure import Figure

    _check_panels(len(panels), titles)
    figure = Figure(figsize=(3.6 * len(panels) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for index, (ax, curves) in enumerate(zip(axes, panels, strict=True)):
        for curve in curves:
            color, marker, line = _STYLES[curve.where]
            x = [100 * ratio for ratio in curve.ratios]
            mean = [100 * value for value in curve.mean]
            low = [100 * max(0, m - s) for m, s in zip(curve.mean, curve.std, strict=True)]
            high = [100 * min(1, m + s) for m, s in zip(curve.mean, curve.std, strict=True)]
            label = curve.where.replace("_", "-")
            ax.plot(x, mean, line, color=color, marker=marker, markersize=4, linewidth=1.5, label=label)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("sparsity ratio of every layer (%)")
        if titles:
            ax.set_title(_panel_title(index, titles), fontsize=11)
        if curves:
            n = sorted({len(curve.seeds) for curve in curves})
            ax.legend(title=f"mean ± std, n = {', '.join(map(str, n))}", frameon=False, fontsize=9, title_fontsize=8)
    axes[0].set_ylabel("top-1 accuracy (%)")
    axes[0].set_ylim(bottom=0)
    return figure


def _panel_title(index: int, titles: Sequence[str]) -> str:
    return titles[0] if len(titles) == 1 else f"({chr(ord('a') + index)}) {titles[index]}"


def _check_panels(count: int, titles: Sequence[str]) -> None:
    if not count:
        raise ValueError("there is nothing to plot: give at least one result")
    if titles and len(titles) != count:
        raise ValueError(f"give as many `titles` as panels ({count}), or none; got {len(titles)}")
