"""Fig. 5 over several trained networks, with the spread of the draws told apart from that of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from acnet_pl.analysis import Location, PruningCurve

__all__ = ["PruningSummary", "summarize"]


@dataclass(frozen=True)
class PruningSummary:
    """Accuracy after pruning at a location, of several networks.

    Attributes:
        where: Where weights were removed.
        ratios: Share of the weights of each layer, 0 to 1.
        networks: Trained networks, one for each seed of training.
        draws: Random choices of the weights in each network.
        mean: Per ratio, the mean over networks of the mean over draws, 0 to 1.
        over_networks: Per ratio, the standard deviation of the networks' means; None for one network.
        over_draws: Per ratio, the standard deviation of the draws within a network (root mean square over networks);
            None for one draw.
        by_network: Per network, per ratio, the accuracies of its draws.
    """

    where: Location
    ratios: tuple[float, ...]
    networks: int
    draws: int
    mean: tuple[float, ...]
    over_networks: tuple[float, ...] | None
    over_draws: tuple[float, ...] | None
    by_network: tuple[tuple[tuple[float, ...], ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)


def summarize(curves: Sequence[PruningCurve]) -> PruningSummary:
    """Put the curves of several networks together, at the ratios that all have.

    Args:
        curves: At least one, of one location and with as many draws each.
    """
    ratios = [ratio for ratio in curves[0].ratios if all(ratio in curve.ratios for curve in curves)]
    figures = [[curve.accuracies[curve.ratios.index(ratio)] for ratio in ratios] for curve in curves]
    columns = [[network[index] for network in figures] for index in range(len(ratios))]  # ratio, network, draw
    means = [[fmean(draws) for draws in column] for column in columns]
    draws = len(curves[0].seeds)
    return PruningSummary(
        curves[0].where,
        tuple(ratios),
        len(curves),
        draws,
        tuple(fmean(column) for column in means),
        tuple(stdev(column) for column in means) if len(curves) > 1 else None,
        tuple(fmean(stdev(d) ** 2 for d in column) ** 0.5 for column in columns) if draws > 1 else None,
        tuple(tuple(network) for network in figures),
    )
