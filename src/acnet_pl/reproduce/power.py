"""Estimate before training how many pairs a gain needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.statistics import CONFIDENCE, POWER, pairs_needed

__all__ = ["ASSUMED_GAIN", "ASSUMED_SPREAD", "Need", "needs", "power_table", "warnings"]

ASSUMED_GAIN = 0.5
"""Points of a gain to look for, where none is given or published."""
ASSUMED_SPREAD = 0.5
"""Standard deviation of the gains of pairs, in points, where fewer than four pairs are finished.

Cifar-quick and ResNet-20 had 0.2 to 0.6 after 10 epochs on CIFAR-10."""


_TELLING = 4
"""Pairs whose spread is used; that of two or three may be a small part of the true one."""
_MOST_ADVISED = 200
"""Pairs that a warning still advises to train."""


@dataclass(frozen=True)
class Need:
    """Number of pairs that a comparison with the baseline needs, and its basis.

    Attributes:
        model: Title of the network.
        variant: Title of the variant.
        gain: The gain to find, in points.
        source: Where that gain is from.
        spread: Standard deviation of the gains of pairs, in points.
        seen: Finished pairs that the spread is of; 0 where it is assumed.
        planned: Pairs of the plan.
    """

    model: str
    variant: str
    gain: float
    source: str
    spread: float
    seen: int
    planned: int

    @property
    def pairs(self) -> int | None:
        """Return the number of pairs that the gain needs; None if it is more than 10,000."""
        return pairs_needed(self.gain, self.spread)


def needs(result: GridResult, gain: float | None = None, spread: float | None = None) -> Iterator[Need]:
    """Yield the need of each comparison of a grid.

    Args:
        result: The grid as it stands.
        gain: Points to look for; None is what was published for the recipe, or else `ASSUMED_GAIN`.
        spread: Of the gains of pairs, in points; None is that of the finished pairs, if there are four, or else
            `ASSUMED_SPREAD`.
    """
    measure = result.grid.measures[0]
    base = result.grid.variants[0]
    if not base.is_plain:
        return
    for model in result.grid.models:
        for variant in result.grid.variants[1:]:
            seen = result.gain(model.key, variant.key, measure)
            observed = seen.std if spread is None and seen.n >= _TELLING else None
            wanted, source = (gain, "asked for") if gain is not None else (ASSUMED_GAIN, "assumed")
            for published in result.grid.published:
                found = [published.values.get((model.key, key, measure.key)) for key in (base.key, variant.key)]
                if gain is None and published.recipe == result.recipe and None not in found and found[0] != found[1]:
                    wanted, source = float(found[1] or 0) - float(found[0] or 0), published.source
            yield Need(
                model.title,
                variant.title,
                wanted,
                source,
                observed if observed else ASSUMED_SPREAD if spread is None else spread,
                seen.n if observed else 0,
                len(result.seeds),
            )


def power_table(comparisons: Sequence[Need]) -> Table:
    """Return the needs as a table for the terminal."""
    title = f"Pairs that a gain needs (paired t, two-sided {1 - CONFIDENCE:.0%}, {POWER:.0%} power)"
    table = Table("network", "variant", "gain", "spread", "pairs needed", "planned", title=title, title_justify="left")
    for need in comparisons:
        spread = f"{_points(need.spread)} ({f'{need.seen} pairs' if need.seen else 'assumed'})"
        gain = f"{_points(need.gain, '+')} ({need.source})"
        table.add_row(need.model, need.variant, gain, spread, _count(need.pairs), str(need.planned))
    return table


def warnings(comparisons: Sequence[Need]) -> Iterator[str]:
    """Yield a line for each network and number of pairs that is planned and too small for the gains of its variants."""
    short: dict[tuple[str, float, int, int | None], list[str]] = {}
    for need in comparisons:
        if need.pairs is None or need.planned < need.pairs:
            short.setdefault((need.model, need.gain, need.planned, need.pairs), []).append(need.variant)
    for (model, gain, planned, pairs), variants in short.items():
        if pairs is None or pairs > _MOST_ADVISED:
            advice = "Look for a larger gain"
        else:
            advice = f"Give --seeds {' '.join(map(str, range(pairs))) if pairs <= 16 else f'$(seq 0 {pairs - 1})'}"
        yield (
            f"Warning: {model}: {planned} pairs are planned, and a gain of {_points(gain, '+')} needs {_count(pairs)} "
            f"({'; '.join(variants)}). {advice}, or expect an interval with zero in it. Each comparison is "
            "counted by itself; p adjusted for several (Holm) needs more."
        )


def _count(pairs: int | None) -> str:
    return "more than 10,000" if pairs is None else f"{pairs:,}"


def _points(value: float, sign: str = "") -> str:
    """Return points with two decimals, or with more where these would say something else."""
    return format(value, f"{sign}.2f" if abs(round(value, 2) - value) < 1e-9 and abs(value) < 1000 else f"{sign}.3g")
