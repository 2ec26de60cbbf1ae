"""Read the figures of each epoch from a run's metrics.csv."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

__all__ = ["EpochFigures", "read_curve"]

_COLUMNS = {
    "train/loss": "train_loss",
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
        train_loss: Mean over the logged steps, on augmented images in training mode.
        train_top1: On all augmented images of the epoch, in training mode, 0 to 1.
        validation_loss: At the end of the epoch, in the precision of the training.
        validation_top1: Likewise, 0 to 1. Where no images are held out, validation images are the test images.
        learning_rate: Of the first parameter group, at the last logged step.
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
    # Of figures that an epoch has once, the last stands: a resumed run may have evaluated twice.
    return [
        EpochFigures(epoch, **{k: fmean(v) if k == "train_loss" else v[-1] for k, v in found[epoch].items()})
        for epoch in sorted(found)
        if epoch <= epochs
    ]
