"""Draw the README's picture: the block before and after fusing, and the gain of ACNet over plain with its interval.

    python benchmarks/readme_picture.py

Gains are the mean over pairs of one seed, with the 95 % interval of Student's t distribution. A test compares the texts
of the picture with those of the records.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from acnet_pl.reproduce.statistics import Sample, paired_difference
from record_files import Records

OUT = Path(__file__).parent.parent / "docs" / "images" / "acnet.svg"
RESULTS = Path(__file__).parent.parent / "results"
RECORDS = (
    ("ResNet-20", "resnet20", "cifar10-jpeg/cheaper_resnet20.json#cheaper"),
    ("Cifar-quick", "cifar_quick", "cifar10-jpeg/cheaper_cifar_quick.json#cheaper"),
)
SQUARE, LINE, INK = "#4c9f9a", "#d9822b", "#7a7f87"  # readable on white and on black


def kernel(axes: Any, x: float, y: float, rows: int, columns: int, *, skeleton: bool = False, label: str = "") -> None:
    """Draw one kernel as cells, its centre at ``(x, y)``."""
    for row in range(rows):
        for column in range(columns):
            one_d = min(rows, columns) == 1 or (skeleton and 1 in (row, column))
            corner = (x + column - columns / 2, y + row - rows / 2)
            axes.add_patch(Rectangle(corner, 0.9, 0.9, color=LINE if one_d else SQUARE, alpha=0.9, linewidth=0))
    axes.text(x, y - rows / 2 - 0.35, label, ha="center", va="top", fontsize=9, color=INK)


def gains() -> list[tuple[str, Sample]]:
    """The gain of ACNet over plain, by network and epochs."""
    found = []
    for title, model, source in RECORDS:
        grid = Records(RESULTS).load(source)
        percent = {
            figure["variant"]: Sample({int(seed): top1 for seed, top1 in figure["percent"]["by_seed"].items()})
            for figure in grid["figures"]
            if figure["model"] == model and figure["percent"]["n"]
        }
        gain = paired_difference(percent["plain"], percent["acb"])
        found.append((f"{title}, {grid['plans'][0]['epochs']} epochs\n{gain.n} pairs", gain))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "acnet", "text.color": INK}):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        draw().savefig(options.out, transparent=True, metadata={"Date": None})


def draw() -> Figure:
    """Draw the block on the left and the gains on the right."""
    figure = Figure(figsize=(9.2, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    kernel(left, 2, 0, 3, 3, label="3×3")
    kernel(left, 6, 0, 1, 3, label="1×3")
    kernel(left, 9, 0, 3, 1, label="3×1")
    kernel(left, 14.5, 0, 3, 3, skeleton=True, label="one 3×3, with bias")
    for x, sign in ((4.1, "+"), (7.9, "+"), (11.4, "=")):
        left.text(x, -0.05, sign, ha="center", va="center", fontsize=18, color=INK)
    left.text(5.5, 2.4, "training: each with its own batch norm", ha="center", fontsize=10, color=INK)
    left.text(14.5, 2.4, "deployed", ha="center", fontsize=10, color=INK)
    left.set(xlim=(0, 17), ylim=(-3, 3), aspect="equal")
    left.axis("off")

    rows = gains()
    for place, (_, gain) in enumerate(reversed(rows)):
        low, high = gain.interval() or (gain.mean, gain.mean)
        right.plot([low, high], [place, place], color=LINE, linewidth=2)
        right.plot(list(gain.values.values()), [place - 0.25] * gain.n, "|", color=INK, markersize=6)
        right.plot(gain.mean, place, "o", color=LINE, markersize=7)
        right.text(high + 0.06, place, f"{gain.mean:+.2f} ({low:+.2f} to {high:+.2f})", va="center", fontsize=8.5)
    right.axvline(0, color=INK, linewidth=1)
    right.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=8.5)
    right.set(xlim=(-0.15, 3.1), ylim=(-0.6, len(rows) - 0.4))
    right.set_xticks([0, 1, 2])
    right.set_title("gain in top-1 points, CIFAR-10 (JPEG copy)", fontsize=9.5, color=INK)
    right.tick_params(colors=INK)
    for side in ("top", "right", "left"):
        right.spines[side].set_visible(False)
    right.spines["bottom"].set_color(INK)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
