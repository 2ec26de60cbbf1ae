"""Charts as SVG text that takes its colours from the page around it, light or dark."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "heat_map", "line_chart"]

_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 40, 40


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        label: In the legend; empty for none.
        style: Number of the page's colour for it.
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
) -> str:
    """Curves with bands over common axes.

    Args:
        series: At least one point in all.
        title: Above the axes.
        x_label: Below.
        y_label: Beside.
        y_range: Of the vertical axis, at least; None is that of the data.

    Example:
        >>> chart = line_chart([Series("plain", 0, [(0, 1.0), (1, 2.0)])], "t", "epoch", "accuracy (%)")
        >>> chart.startswith("<svg"), chart.count("<polyline")
        (True, 1)
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    x_ticks = _ticks(min(xs), max(xs), smallest_step=1)
    y_ticks = _ticks(*(y_range or (min(ys), max(ys))))
    labelled = [one for one in series if one.label]
    legend = _legend([one.label for one in labelled])
    top = max((y for _, y in legend), default=20) + 10
    height = _HEIGHT + top - _TOP
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT),
            height - _BOTTOM - (min(max(y, y_low), y_high) - y_low) / (y_high - y_low) * (height - top - _BOTTOM),
        )

    parts = [_open(_WIDTH, height, title), _text(8, 14, title, "title", "start")]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 3.5, f"{tick:g}", "tick", "end"))
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            parts.append(_text(x, height - _BOTTOM + 15, f"{tick:g}", "tick", "middle"))
    for one in series:
        placed = [place(x, y) for x, y in one.points]
        if one.spread:
            above = [place(x, y + s) for (x, y), s in zip(one.points, one.spread, strict=True)]
            below = [place(x, y - s) for (x, y), s in zip(one.points, one.spread, strict=True)]
            parts.append(f'<polygon class="band s{one.style}" points="{_points([*above, *reversed(below)])}"/>')
        kind = "curve faint" if one.faint else "curve"
        parts.append(f'<polyline class="{kind} s{one.style}" points="{_points(placed)}"/>')
        if len(placed) == 1 or not one.faint:
            marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in placed) if len(xs) < 120 else ""
            parts.append(f'<g class="mark s{one.style}">{marks}</g>')
    parts += [
        _text((_LEFT + _WIDTH - _RIGHT) / 2, height - 6, x_label, "tick", "middle"),
        f'<text class="tick" text-anchor="middle" transform="translate(11 {(height - _BOTTOM + top) / 2:.0f}) '
        f'rotate(-90)">{escape(y_label)}</text>',
    ]
    for (x, y), one in zip(legend, labelled, strict=True):
        parts.append(f'<line class="curve s{one.style}" x1="{x:.0f}" x2="{x + 13:.0f}" y1="{y - 4}" y2="{y - 4}"/>')
        parts.append(_text(x + 17, y, one.label, "tick", "start"))
    return "".join([*parts, "</svg>"])


def heat_map(matrix: Sequence[Sequence[float]], title: str) -> str:
    """A matrix of numbers from 0 to 1, each written in its cell; the larger, the darker (Fig. 6).

    Args:
        matrix: Square.
        title: Above.
    """
    lines = textwrap.wrap(title, 26)  # what is as wide as the map
    size, top = 210 // len(matrix), 11 + 15 * len(lines)
    width = size * len(matrix)
    parts = [_open(width, width + top, title)]
    parts += [_text(width / 2, 15 * number, line, "title", "middle") for number, line in enumerate(lines, 1)]
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            x, y = column * size, top + row * size
            parts.append(
                f'<rect class="cell" x="{x + 1}" y="{y + 1}" width="{size - 2}" height="{size - 2}" rx="3" '
                f'fill-opacity="{0.04 + 0.96 * min(max(value, 0), 1):.3f}"/>'
            )
            kind = "high" if value > 0.55 else "low"
            parts.append(_text(x + size / 2, y + size / 2 + 5, f"{value:.3f}", f"number {kind}", "middle"))
    return "".join([*parts, "</svg>"])


def _legend(labels: Sequence[str]) -> list[tuple[float, int]]:
    """Where each label begins, from left to right and, where the line is full, on the next."""
    places: list[tuple[float, int]] = []
    x, y = 8.0, 30
    for label in labels:
        width = 25 + 6 * len(label)
        if x + width > _WIDTH and places:
            x, y = 8.0, y + 15
        places.append((x, y))
        x += width
    return places


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title, quote=True)}">'
    )


def _text(x: float, y: float, content: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float, about: int = 5, smallest_step: float = 0) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    span = max(high - low, 1e-6)
    step = 10 ** math.floor(math.log10(span / about))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= about)
    step = max(step, smallest_step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
