"""Statistics over seeds: means, paired differences, intervals, p-values, required pairs."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atanh, isfinite, nan, tanh
from typing import Any, TypeVar

__all__ = ["CONFIDENCE", "POWER", "Correlation", "Sample", "adjusted", "correlation", "holm", "in_percent"]
__all__ += ["paired_difference", "pairs_needed"]

CONFIDENCE = 0.95
POWER = 0.8
_MOST_PAIRS = 10_000
_ROUNDING = 1e-12  # relative, of computing with floats
_DECIMALS = 12  # of percent; an accuracy is a count of images

_Key = TypeVar("_Key")


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
        """Return the mean, free of rounding as the figures are; NaN without figures."""
        return round(statistics.fmean(self.values.values()), _DECIMALS) + 0.0 if self.values else nan  # no -0.0

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation (n - 1), 0 if it is rounding alone; None for fewer than two figures."""
        if self.n < 2:
            return None
        if not all(map(isfinite, self.values.values())):
            return nan
        spread = statistics.stdev(self.values.values())
        return spread if spread > _ROUNDING * max(map(abs, self.values.values())) else 0.0

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return the confidence interval of the mean by Student's t; None without spread.

        Args:
            confidence: 0 to 1.
        """
        if not self.std or not isfinite(self.std):
            return None
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, self.n - 1)) * self.std / self.n**0.5
        return self.mean - half, self.mean + half

    def p_value(self) -> float | None:
        """Return the two-sided p of a zero mean by Student's t test; None without spread."""
        if not self.std or not isfinite(self.std):
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


def in_percent(figures: Mapping[int, float | None]) -> Sample:
    """Return figures from 0 to 1 in percent, without those that are None.

    Examples:
        >>> in_percent({0: 0.7858, 1: None}).values
        {0: 78.58}
    """
    return Sample({seed: round(100 * figure, _DECIMALS) for seed, figure in figures.items() if figure is not None})


def paired_difference(base: Sample, other: Sample) -> Sample:
    """Return ``other - base`` for each seed that both have, free of rounding: equal differences are equal.

    Examples:
        >>> paired_difference(Sample({0: 0.5, 1: 0.25}), Sample({1: 0.75, 2: 0.9})).values
        {1: 0.5}
    """
    pairs = {seed: (base.values[seed], other.values[seed]) for seed in base.values if seed in other.values}
    return Sample({seed: round(own - plain, _DECIMALS) for seed, (plain, own) in pairs.items()})


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


def adjusted(gains: Mapping[_Key, Sample]) -> dict[_Key, float | None]:
    """Return Holm-adjusted p of all gains with two pairs; None without spread, but counted among the comparisons."""
    found = {key: gain.p_value() for key, gain in gains.items() if gain.n > 1}
    values = holm([1.0 if p is None else p for p in found.values()])
    return {key: None if found[key] is None else p for key, p in zip(found, values, strict=True)}


def pairs_needed(gain: float, spread: float, power: float = POWER, confidence: float = CONFIDENCE) -> int | None:
    """Return the pairs that the two-sided paired t test needs to find a gain.

    Args:
        gain: The true mean difference.
        spread: Standard deviation of the differences of pairs, in the same unit.
        power: Chance to find it, 0 to 1.
        confidence: 1 minus the level of the test.

    Returns:
        The smallest number, at least 2; None if it is more than 10,000.

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

    needed = 2 + bisect_left(range(2, _MOST_PAIRS + 1), power, key=power_of)
    return needed if needed <= _MOST_PAIRS else None
