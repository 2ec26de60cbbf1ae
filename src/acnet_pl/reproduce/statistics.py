"""Statistics over seeds: means, paired differences, intervals, p-values, required pairs."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atanh, tanh
from typing import Any

__all__ = ["CONFIDENCE", "POWER", "Correlation", "Sample", "correlation", "holm", "paired_difference", "pairs_needed"]

CONFIDENCE = 0.95
POWER = 0.8
_MOST_PAIRS = 10_000


@dataclass(frozen=True)
class Sample:
    """Figures of one kind, one per seed.

    Examples:
        >>> Sample({0: 1.0, 1: 2.0, 2: 3.0}).mean
        2.0
    """

    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """Return the number of figures."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Return the mean; NaN without figures."""
        return statistics.fmean(self.values.values()) if self.values else float("nan")

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation (n - 1); None for fewer than two figures."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return the confidence interval of the mean by Student's t; None for fewer than two figures.

        Args:
            confidence: 0 to 1.
        """
        if self.std is None:
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, self.n - 1)) * self.std / self.n**0.5
        return self.mean - half, self.mean + half

    def p_value(self) -> float | None:
        """Return the two-sided p of a zero mean by Student's t test; None without spread."""
        if not self.std:
            return None
        from scipy.stats import t

        return float(2 * t.sf(abs(self.mean) / (self.std / self.n**0.5), self.n - 1))

    def as_dict(self) -> dict[str, Any]:
        """Return all statistics by name; None where undefined."""
        return {
            "n": self.n,
            "mean": self.mean if self.n else None,
            "std": self.std,
            "interval": self.interval(),
            "confidence": CONFIDENCE,
            "p": self.p_value(),
            "by_seed": {str(seed): value for seed, value in self.values.items()},
        }


def paired_difference(base: Sample, other: Sample) -> Sample:
    """Return ``other - base`` for each seed that both have.

    Examples:
        >>> paired_difference(Sample({0: 0.5, 1: 0.25}), Sample({1: 0.75, 2: 0.9})).values
        {1: 0.5}
    """
    return Sample({seed: other.values[seed] - base.values[seed] for seed in base.values if seed in other.values})


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of two figures over pairs of one seed.

    Attributes:
        n: Pairs.
        value: -1 to 1; None for fewer than three pairs, or where a figure is the same in all.
        interval: Confidence interval by Fisher's transformation; None for fewer than four pairs.
    """

    n: int
    value: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return the correlation and its interval as text, as far as they are known."""
        if self.value is None:
            return f"unknown (n = {self.n})"
        if self.interval is None:
            return f"{self.value:+.2f} (n = {self.n}, too few for an interval)"
        low, high = self.interval
        return f"{self.value:+.2f} ({CONFIDENCE:.0%}: {low:+.2f} to {high:+.2f}, n = {self.n})"


def correlation(base: Sample, other: Sample, confidence: float = CONFIDENCE) -> Correlation:
    """Correlate the figures of the seeds that both have: how much of the spread a pair shares.

    The variance of a difference is that of unpaired figures times 1 - the correlation, where both spread alike.

    Args:
        base: Figures of one kind of network.
        other: Figures of another kind.
        confidence: 0 to 1.

    Examples:
        >>> str(correlation(Sample({0: 1.0, 1: 2.0, 2: 4.0}), Sample({0: 2.0, 1: 3.0, 2: 5.0})))
        '+1.00 (n = 3, too few for an interval)'
    """
    seeds = [seed for seed in base.values if seed in other.values]
    pairs = [[sample.values[seed] for seed in seeds] for sample in (base, other)]
    if len(seeds) < 3 or any(len(set(values)) == 1 for values in pairs):
        return Correlation(len(seeds))
    value = min(1.0, max(-1.0, statistics.correlation(*pairs)))
    if len(seeds) < 4 or abs(value) == 1:
        return Correlation(len(seeds), value)
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) / (len(seeds) - 3) ** 0.5
    low, high = (tanh(atanh(value) + side * half) for side in (-1, 1))
    return Correlation(len(seeds), value, (low, high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons by Holm's step-down method.

    Args:
        p_values: p-values of all comparisons that are looked at together.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def pairs_needed(gain: float, spread: float, power: float = POWER, confidence: float = CONFIDENCE) -> int:
    """Return the pairs that the two-sided paired t test needs to find a gain.

    Args:
        gain: The true mean difference.
        spread: Standard deviation of the differences of pairs, in the same unit.
        power: Chance to find it, 0 to 1.
        confidence: 1 minus the level of the test.

    Returns:
        The smallest number, at least 2 and at most 10,000.

    Raises:
        ValueError: The gain is 0, which no number finds, or the spread is negative.

    Examples:
        >>> pairs_needed(gain=0.5, spread=1.0), pairs_needed(gain=0.8, spread=0.5)
        (34, 6)
    """
    if gain == 0 or spread < 0:
        raise ValueError(f"`gain` (={gain}) must not be 0 and `spread` (={spread}) not negative")
    from scipy.stats import nct, t

    def power_of(pairs: int) -> float:
        critical = float(t.ppf((1 + confidence) / 2, pairs - 1))
        noncentrality = abs(gain) / max(spread, 1e-12) * pairs**0.5
        # The distribution's tail is not computed that far out; the test is certain to find such a gain.
        return 1.0 if noncentrality > 30 + critical else float(nct.sf(critical, pairs - 1, noncentrality))

    pairs = range(2, _MOST_PAIRS)
    return 2 + bisect_left(pairs, power, key=power_of)
