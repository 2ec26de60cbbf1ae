"""Read the figures of each epoch from a run's metrics.csv."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

__all__ = ["LARGEST", "MOST_EPOCHS", "EpochFigures", "read_curve"]

LARGEST = 1e38  # of a figure; those of float32 are no larger
MOST_EPOCHS = 1_000_000
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

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file():
        return []
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have put a mark at the beginning
            for row in csv.DictReader(file):
                for column, name in _COLUMNS.items():
                    if row.get(column) and row.get("epoch"):
                        found[_epoch(row["epoch"])][name].append(_number(column, row[column]))
    except (csv.Error, ValueError) as error:
        raise ValueError(
            f"{path} is no table of a training's figures ({error}); move it away to report the run without its curves"
        ) from error
    return [EpochFigures(epoch, **_figures(found[epoch])) for epoch in sorted(found) if epoch <= epochs]


def _epoch(text: str) -> int:
    """Return the number of an epoch, counted from 1."""
    number = _number("epoch", text)
    if not (0 <= number < MOST_EPOCHS and number.is_integer()):
        raise ValueError(f"`epoch` is {text}, expected a whole number from 0 to {MOST_EPOCHS:,}")
    return int(number) + 1


def _number(column: str, text: str) -> float:
    """Return a logged figure; a diverged training has NaN and infinite ones."""
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"`{column}` is {text[:40]!r}, expected a number") from error
    if abs(number) > LARGEST and math.isfinite(number):
        raise ValueError(f"`{column}` is {text[:40]}, expected a number up to {LARGEST:g}")
    return number


def _figures(logged: Mapping[str, Sequence[float]]) -> dict[str, float]:
    # The last value counts: a resumed run may have evaluated an epoch twice.
    figures = {name: values[-1] for name, values in logged.items() if name != "logged_loss"}
    if "logged_loss" in logged:
        losses = logged["logged_loss"]
        figures.setdefault("train_loss", fmean(losses) if all(map(math.isfinite, losses)) else math.nan)
    return figures
