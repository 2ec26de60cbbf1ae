"""Draw the workspace of docs/how-to/dashboards.md from the metrics.csv of runs: a section for each prefix.

    python -m acnet_pl fit --config experiments/digits/resnet8.yaml --config experiments/conv/acb.yaml --name w-acnet
    python -m acnet_pl fit --config experiments/digits/resnet8.yaml --config experiments/conv/plain.yaml --name w-plain
    python benchmarks/dashboard_picture.py runs/w-acnet/* runs/w-plain/* --output docs/images/dashboard.svg

No account is needed: Weights & Biases and TensorBoard show the same figures under the same names.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS = (
    ("train/loss", "epoch"),
    ("val/top1", "epoch"),
    ("lr", "step"),
    ("equivalence/max_rel_difference", "epoch"),
    ("kernels/skeleton", "epoch"),
    ("rotation/*/top1", ""),
)
COLOURS = {"plain": "#6b7480", "acnet": "#0072b2"}


def kind_of(run: Path) -> str:
    """Return the job type of a run: plain or acnet, as Weights & Biases has it."""
    conv = yaml.safe_load((run / "config.yaml").read_text())["model"]["conv"]["class_path"]
    return "plain" if conv.endswith("PlainConv") else "acnet"


def points(rows: Sequence[dict[str, str]], name: str, axis: str) -> list[tuple[float, float]]:
    """Return what was logged under a name against epoch or step; the mean of each epoch."""
    found: dict[float, list[float]] = {}
    for row in rows:
        if row.get(name) and row.get(axis):
            found.setdefault(float(row[axis]), []).append(float(row[name]))
    return [(at, sum(values) / len(values)) for at, values in sorted(found.items())]


def rotations(rows: Sequence[dict[str, str]]) -> dict[str, float]:
    """Return the last accuracy of each transform."""
    names = [name for name in rows[0] if name.startswith("rotation/") and name.endswith("/top1")]
    return {name.split("/")[1].replace("_", " "): float(row[name]) for row in rows for name in names if row[name]}


def draw(axes: Axes, name: str, axis: str, runs: Sequence[Path]) -> None:
    """Draw one panel."""
    for position, run in enumerate(runs):
        kind = kind_of(run)
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        if not axis:
            bars = rotations(rows)
            width = 0.8 / len(runs)
            places = [number + position * width for number in range(len(bars))]
            axes.bar(places, [*bars.values()], width, color=COLOURS[kind], label=kind)
            axes.set_xticks([number + 0.4 - width / 2 for number in range(len(bars))], [*bars], fontsize=7)
            continue
        if curve := points(rows, name, axis):
            axes.plot(*zip(*curve, strict=True), color=COLOURS[kind], marker="." if len(curve) < 30 else "", label=kind)
        if name.startswith("equivalence"):
            axes.set_yscale("log")
        axes.set_xlabel(axis, fontsize=8)
    axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
    axes.tick_params(labelsize=7)
    axes.grid(color="#d9dee3", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, each with metrics.csv and config.yaml")
    parser.add_argument("--output", type=Path, default=Path("docs/images/dashboard.svg"))
    given = parser.parse_args()
    figure = Figure(figsize=(11, 5.6), layout="constrained", facecolor="white")
    for axes, (name, axis) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        draw(axes, name, axis, given.runs)
    handles = {kind_of(run): figure.axes[0].get_lines()[number] for number, run in enumerate(given.runs)}
    figure.legend([*handles.values()], [*handles], loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("group: Digits-ResNetCifar-8 · colour: job_type", x=0.01, ha="left", fontsize=10)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.output, metadata={"Date": None})
    print(f"Wrote {given.output}")


if __name__ == "__main__":
    main()
