"""Summarise a grid in one sentence per network."""

from __future__ import annotations

from collections.abc import Iterator

from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.statistics import CONFIDENCE, Sample, pairs_needed

__all__ = ["headlines"]


def headlines(result: GridResult) -> Iterator[str]:
    """Yield a sentence for each network with a finished pair of plain network and ACNet.

    Args:
        result: The grid.
    """
    base, measure = result.grid.variants[0], result.grid.measures[0]
    other = next((variant for variant in result.grid.variants if variant.key == "acb"), result.grid.variants[-1])
    if other is base or not base.is_plain:
        return
    for model in result.grid.models:
        gain = result.gain(model.key, other.key, measure)
        if not gain.n:
            continue
        every = [result.sample(model.key, variant.key, measure) for variant in (base, other)]
        plain, own = (Sample({seed: sample.values[seed] for seed in gain.values}).mean for sample in every)
        said = f"{model.title}: {other.title} {own:.2f} % against plain {plain:.2f} %"
        interval = gain.interval()
        if gain.n == 1:
            yield f"{said}, from one pair of runs; an interval needs at least two pairs."
            continue
        said += f", {_signed(gain.mean)} points ("
        if interval is None or gain.std is None:
            said += f"{gain.n} pairs without spread, so there is no interval)"
        else:
            said += f"{CONFIDENCE:.0%} interval {' to '.join(map(_signed, interval))}, {gain.n} pairs)"
            if interval[0] <= 0 <= interval[1]:
                said += "; the interval includes zero, so this may be chance"
                pairs = (pairs_needed(gain.mean, gain.std) or 0) if gain.mean > 0 else 0
                if gain.n < pairs <= 100:
                    said += f"; to find a gain of this size takes about {pairs} pairs, fixed before the first run"
        if any(sample.n > gain.n for sample in every):
            said += "; these accuracies are of the pairs alone, those of the table of all finished runs"
        yield f"{said}."


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
