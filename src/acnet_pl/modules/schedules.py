"""Learning-rate schedules as functions of the epoch, stepped once per optimisation step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

__all__ = ["CosineSchedule", "Schedule", "StaircaseSchedule"]


class Schedule(ABC):
    """Factor on the base learning rate over training, after a linear warm-up.

    Args:
        warmup_epochs: Epochs over which the factor first rises linearly; fractions are allowed.
    """

    def __init__(self, warmup_epochs: float = 0.0) -> None:
        if warmup_epochs < 0:
            raise ValueError(f"`warmup_epochs` (={warmup_epochs}) must be at least 0")
        self.warmup_epochs = warmup_epochs

    @abstractmethod
    def decay(self, epoch: float, max_epochs: float) -> float:
        """Return the factor at a fractional epoch, counted from the start of training, after the warm-up."""

    def factor(self, step: int, steps_per_epoch: float, max_epochs: float) -> float:
        """Return the factor for an optimisation step.

        Args:
            step: Steps done so far.
            steps_per_epoch: Optimisation steps in an epoch.
            max_epochs: Epochs in the whole training.
        """
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if step < warmup_steps:
            return min(1.0, (step + 1) / warmup_steps)
        return self.decay(step / steps_per_epoch, max_epochs)


class CosineSchedule(Schedule):
    """Half a cosine from 1 to 0 over the epochs after the warm-up, as in the authors' later recipes.

    Args:
        warmup_epochs: Epochs over which the factor first rises linearly.

    Examples:
        >>> [round(CosineSchedule().factor(step, 10, 4), 3) for step in (0, 20, 40)]
        [1.0, 0.5, 0.0]
    """

    def __init__(self, warmup_epochs: float = 0.0) -> None:
        super().__init__(warmup_epochs)

    def decay(self, epoch: float, max_epochs: float) -> float:  # noqa: D102
        span = max(max_epochs - self.warmup_epochs, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - self.warmup_epochs) / span)))


class StaircaseSchedule(Schedule):
    """Factor multiplied by ``gamma`` at every milestone: the article's 0.1, 0.01, 0.001, 0.0001 (Sect. 4.1).

    Args:
        milestones: Epochs at which the factor drops, ascending.
        gamma: Factor at each milestone.
        warmup_epochs: Epochs over which the factor first rises linearly.

    Examples:
        >>> [StaircaseSchedule([2, 3]).factor(step, 10, 4) for step in (19, 20)]
        [1.0, 0.1]
    """

    def __init__(self, milestones: list[float], gamma: float = 0.1, warmup_epochs: float = 0.0) -> None:
        super().__init__(warmup_epochs)
        if sorted(milestones) != list(milestones):
            raise ValueError(f"`milestones` (={milestones}) must ascend")
        self.milestones = list(milestones)
        self.gamma = gamma

    def decay(self, epoch: float, max_epochs: float) -> float:  # noqa: D102
        passed = sum(milestone <= epoch for milestone in self.milestones)
        return float(self.gamma**passed)
