"""Figures over seeds: mean, spread, and the difference of pairs with its confidence interval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CONFIDENCE", "Sample", "paired_difference"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """Figures of the same kind, one for each seed.

    Example:
        >>> Sample({0: 1.0, 1: 2.0, 2: 3.0}).mean
        2.0
    """

    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean; NaN where there are none."""
        return statistics.fmean(self.values.values()) if self.values else float("nan")

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None for fewer than two."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Confidence interval of the mean by Student's t distribution; None for fewer than two figures.

        Args:
            confidence: 0 to 1.
        """
        if self.std is None:
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, self.n - 1)) * self.std / self.n**0.5
        return self.mean - half, self.mean + half

    def as_dict(self) -> dict[str, Any]:
        """All of it, with None for what there is not."""
        return {
            "n": self.n,
            "mean": self.mean if self.n else None,
            "std": self.std,
            "interval": self.interval(),
            "confidence": CONFIDENCE,
            "by_seed": {str(seed): value for seed, value in self.values.items()},
        }


def paired_difference(base: Sample, other: Sample) -> Sample:
    """``other - base``, seed by seed, of the seeds that both have.

    Example:
        >>> paired_difference(Sample({0: 0.5, 1: 0.25}), Sample({1: 0.75, 2: 0.9})).values
        {1: 0.5}
    """
    return Sample({seed: other.values[seed] - base.values[seed] for seed in base.values if seed in other.values})
