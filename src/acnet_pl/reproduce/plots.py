"""Draw the charts of a report with matplotlib, as SVG for light and for dark pages."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Chart", "Series", "Theme", "heat_map", "line_chart"]


@dataclass(frozen=True)
class Theme:
    """Colours of a page.

    Attributes:
        ink: Colour of headings and legends.
        soft: Colour of labels and ticks.
        rule: Colour of grid lines.
        colours: Colours of the series, by number, which colour-blind readers can tell apart, too.
    """

    ink: str
    soft: str
    rule: str
    colours: tuple[str, ...]


LIGHT = Theme(
    "#1b1f24",
    "#5c6670",
    "#d9dee3",
    ("#0072b2", "#d55e00", "#6b7480", "#b0568a", "#008a63", "#8c6d00", "#5b4a9e", "#a23b3b", "#1f2a33"),
)
DARK = Theme(
    "#e6e9ec",
    "#9aa5af",
    "#31383f",
    ("#5ab4ec", "#ff9356", "#a4adb6", "#e08cbd", "#45c79c", "#e0c341", "#b3a3f2", "#f08a8a", "#dfe5ea"),
)
_DASHES = ("-", "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (8, 2)), (0, (2, 2, 6, 2)))
_MARKERS = "os^DvpX<*"


@dataclass(frozen=True)
class Chart:
    """Drawn chart.

    Attributes:
        title: What it shows, also for readers who do not see it.
        light: SVG for light pages.
        dark: SVG for dark pages.
    """

    title: str
    light: str
    dark: str


@dataclass(frozen=True)
class Series:
    """Curve of a chart.

    Attributes:
        label: In the legend; empty for none.
        style: Number of its colour, dash and marker.
        points: ``(x, y)``.
        spread: Half the height of a band around each point; empty for none.
        faint: Draw it thin, as one of several behind their mean.
    """

    label: str
    style: int
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()
    faint: bool = False


def line_chart(
    series: Sequence[Series], title: str, x_label: str, y_label: str, y_range: tuple[float, float] | None = None
) -> Chart:
    """Draw curves with bands over common axes.

    Args:
        series: At least one point in all.
        title: Above the axes.
        x_label: Below.
        y_label: Beside.
        y_range: Range of the vertical axis; None is that of the data.

    Examples:
        >>> line_chart([Series("plain", 0, [(0, 1.0), (1, 2.0)])], "Net", "epoch", "accuracy (%)").title
        'Net: accuracy (%) by epoch'
    """
    from matplotlib.ticker import MaxNLocator

    def draw(theme: Theme) -> str:
        labels = [one.label for one in series if one.label]
        columns = 2 if max(map(len, labels), default=0) <= 18 else 1
        figure = _figure(4.4, 2.9 + 0.2 * -(-len(labels) // columns))
        axes = figure.subplots()
        for one in series:
            _draw_series(axes, one, theme.colours[one.style])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if y_range:
            axes.set_ylim(y_range[0], y_range[1] * 1.03)
        _plain_frame(axes, theme)
        if labels:
            figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, labelcolor=theme.ink)
        axes.set_title(title, loc="left", color=theme.ink, fontsize=10.5, fontweight="bold")
        return _svg(figure)

    return Chart(f"{title}: {y_label} by {x_label}", draw(LIGHT), draw(DARK))


def heat_map(matrix: Sequence[Sequence[float]], title: str) -> Chart:
    """Draw a matrix of numbers from 0 to 1, each written in its cell, with its colour scale (Fig. 6).

    Args:
        matrix: Square.
        title: Above.
    """

    def draw(theme: Theme) -> str:
        size, lines = len(matrix), textwrap.wrap(title, 34)
        figure = _figure(3.2, 2.75 + 0.18 * len(lines))
        axes = figure.subplots()
        # Cells as shapes, which stay sharp, and not as an image.
        mesh = axes.pcolormesh(matrix, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                ink = "white" if value > 0.6 else "black"
                digits, points = (f"{value:.3f}", 12) if size <= 3 else (f"{value:.2f}", 42 / size)
                axes.text(column + 0.5, row + 0.5, digits, ha="center", va="center", color=ink, fontsize=points)
        axes.invert_yaxis()
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.85, ticks=[0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=theme.soft, labelsize=8.5)
        axes.set_title("\n".join(lines), loc="left", color=theme.ink, fontsize=10.5, fontweight="bold")
        return _svg(figure)

    return Chart(title, draw(LIGHT), draw(DARK))


def _draw_series(axes: Axes, one: Series, colour: str) -> None:
    xs, ys = [x for x, _ in one.points], [y for _, y in one.points]
    if one.spread:
        low, high = ([y + sign * s for y, s in zip(ys, one.spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
    if one.faint:
        axes.plot(xs, ys, color=colour, alpha=0.35, linewidth=0.8)
        return
    marker = _MARKERS[one.style] if len(xs) < 40 else ""
    dash: Any = _DASHES[one.style]
    axes.plot(
        xs, ys, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3.5, label=one.label or None
    )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _plain_frame(axes: Axes, theme: Theme) -> None:
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.rule)
    axes.tick_params(colors=theme.soft, labelsize=8.5, length=0)
    axes.xaxis.label.set(color=theme.soft, fontsize=9)
    axes.yaxis.label.set(color=theme.soft, fontsize=9)
    axes.grid(axis="y", color=theme.rule, linewidth=0.7)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    import matplotlib

    with io.StringIO() as file, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "acnet_pl"}):
        figure.savefig(file, format="svg", metadata={"Date": None})  # the same file for the same numbers
        return file.getvalue()
