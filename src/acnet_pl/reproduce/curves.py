"""Read the figures of each epoch from a run's metrics.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

__all__ = ["EpochFigures", "read_curve"]

_COLUMNS = {
    "train/loss": "logged_loss",
    "train/mean_loss": "train_loss",
    "train/top1": "train_top1",
    "val/loss": "validation_loss",
    "val/top1": "validation_top1",
    "lr": "learning_rate",
    "kernels/skeleton": "skeleton_share",
    "equivalence/max_rel_difference": "fused_difference",
    "time/epoch": "seconds",
}


@dataclass(frozen=True)
class EpochFigures:
    """Logged figures of an epoch; None if not logged.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over all images of the epoch, augmented and in training mode; over the logged steps alone in
            runs of earlier versions.
        train_top1: On all augmented images of the epoch, in training mode, 0 to 1.
        validation_loss: At the end of the epoch, in the precision of the training.
        validation_top1: Likewise, 0 to 1. Where no images are held out, validation images are the test images.
        learning_rate: Learning rate of the first parameter group, at the last logged step.
        skeleton_share: Share of the skeleton in the average kernel's magnitude, 0 to 1.
        fused_difference: Largest difference of the fused network's logits, relative to the largest.
        seconds: That the epoch took.
    """

    epoch: int
    train_loss: float | None = None
    train_top1: float | None = None
    validation_loss: float | None = None
    validation_top1: float | None = None
    learning_rate: float | None = None
    skeleton_share: float | None = None
    fused_difference: float | None = None
    seconds: float | None = None


def read_curve(path: Path, epochs: int) -> list[EpochFigures]:
    """Return the figures of each training epoch.

    Args:
        path: A run's metrics.csv; nothing is read where it is missing.
        epochs: Epochs of the training; what `validate` logs once it is over would be one more and is left out.
    """
    if not path.is_file():
        return []
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, name in _COLUMNS.items():
                if row.get(column) and row.get("epoch"):
                    found[int(float(row["epoch"])) + 1][name].append(float(row[column]))
    return [EpochFigures(epoch, **_figures(found[epoch])) for epoch in sorted(found) if epoch <= epochs]


def _figures(logged: Mapping[str, Sequence[float]]) -> dict[str, float]:
    # The last value counts: a resumed run may have evaluated an epoch twice.
    figures = {name: values[-1] for name, values in logged.items() if name != "logged_loss"}
    if "logged_loss" in logged:
        figures.setdefault("train_loss", fmean(logged["logged_loss"]))
    return figures
