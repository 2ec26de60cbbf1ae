"""Plot the article's Fig. 5 and Fig. 6; each function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from acnet_pl.analysis.kernels import KernelMagnitude
from acnet_pl.analysis.locations import Location
from acnet_pl.analysis.pruning import PruningCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_confusion", "plot_kernel_magnitude", "plot_predictions", "plot_pruning_curves"]

# The colour-blind-safe palette of Okabe and Ito; markers and dashes tell the curves apart in black and white too.
_STYLES: dict[Location, tuple[str, str, str]] = {
    "corner": ("#0072B2", "o", "-"),
    "skeleton": ("#D55E00", "s", "-"),
    "global": ("#444444", "^", "--"),
    "border": ("#CC79A7", "D", "-."),
    "top_left": ("#009E73", "v", ":"),
}


def plot_kernel_magnitude(*magnitudes: KernelMagnitude, titles: Sequence[str] = (), layer: str | None = None) -> Figure:
    """Plot heat maps of average kernel magnitude matrices side by side, with their numbers (Fig. 6).

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
    """Plot accuracy against sparsity ratio, mean with a band of ± one standard deviation (Fig. 5).

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


def plot_confusion(counts: Tensor, names: Sequence[str]) -> Figure:
    """Plot a confusion matrix: a row per class, a column per prediction, shaded by shares of the row.

    Args:
        counts: ``(C, C)``, of images of a class (row) that were taken for a class (column).
        names: Names of the C classes.
    """
    from matplotlib.figure import Figure

    size = min(12.0, 2.0 + 0.3 * len(names))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="class")
    if len(names) <= 30:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for row, line in enumerate(counts.tolist()):
            for column, count in enumerate(line):
                if count:
                    shade = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, count, ha="center", va="center", fontsize=7, color=shade)
    return figure


def plot_predictions(images: Tensor, titles: Sequence[tuple[str, str]]) -> Figure:
    """Plot images, each with its class, and the prediction if it differs.

    Args:
        images: ``(N, C, H, W)``; scaled to the range of their own values unless they are within 0 and 1.
        titles: Class and prediction of each.
    """
    from matplotlib.figure import Figure

    if images.min() < -0.01 or images.max() > 1.01:
        images = (images - images.min()) / (images.max() - images.min()).clamp_min(1e-12)
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, (label, guess) in zip(panels, images.clamp(0, 1), titles, strict=False):
        picture = image.permute(1, 2, 0) if len(image) >= 3 else image[0]
        axes.imshow(picture[..., :3].numpy() if len(image) >= 3 else picture.numpy(), cmap="gray")
        axes.set_title(
            label if label == guess else f"{label}: {guess}", fontsize=7, color="black" if label == guess else "red"
        )
    return figure
