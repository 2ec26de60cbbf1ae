"""Compute and keep Fig. 5's curves of a trained network, and summarise several networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

import torch
from torch import Tensor, nn

from acnet_pl.analysis import Location, PruningCurve, location_mask, pruning_curve
from acnet_pl.analysis.pruning import DEFAULT_RATIOS
from acnet_pl.atomic import atomic_path
from acnet_pl.deploy import load_fused
from acnet_pl.nn.precision import full_precision
from acnet_pl.reproduce.json_file import read_json
from acnet_pl.reproduce.plan import PlannedRun, instantiate_data
from acnet_pl.reproduce.results import fused_file

__all__ = ["PruningSummary", "compute_pruning", "locations", "stored_pruning", "summarize"]

_FILE = "pruning.json"
# Curves in files with other values than these are computed anew.
_EVALUATED = {"precision": "float32", "ratios": list(DEFAULT_RATIOS)}


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
        """Return the attributes by name."""
        return asdict(self)


def summarize(curves: Sequence[PruningCurve]) -> PruningSummary:
    """Summarise the curves of several networks, at their common ratios.

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


def locations(variant: str) -> tuple[Location, ...]:
    """Return where Fig. 5 removes weights; the border variant has more locations (Fig. 5c)."""
    standard: tuple[Location, ...] = ("corner", "skeleton", "global")
    return (*standard, "border", "top_left") if "border" in variant else standard


def stored_pruning(folder: Path, seeds: int) -> list[PruningCurve]:
    """Read stored curves with this number of draws, today's ratios and float32; ignore others."""
    try:
        stored = read_json(folder / _FILE)
        if stored["evaluated"] != _EVALUATED:
            return []
        curves = [
            PruningCurve(
                curve["where"],
                tuple(curve["ratios"]),
                tuple(curve["seeds"]),
                tuple(tuple(values) for values in curve["accuracies"]),
            )
            for curve in stored["curves"]
        ]
        return [curve for curve in curves if len(curve.seeds) == seeds and _is_whole(curve)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_whole(curve: PruningCurve) -> bool:
    """Return True if a stored curve is of a known location and has an accuracy from 0 to 1 for each ratio and draw."""
    return (
        curve.where in get_args(Location)
        and {*curve.ratios} <= {*DEFAULT_RATIOS}
        and len(curve.accuracies) == len(curve.ratios)
        and all(len(values) == len(curve.seeds) for values in curve.accuracies)
        and all(isinstance(value, (int, float)) and 0 <= value <= 1 for draws in curve.accuracies for value in draws)
    )


def compute_pruning(run: PlannedRun, folder: Path, seeds: int) -> list[PruningCurve]:
    """Compute Fig. 5's curves of a run on the test images; stored curves are not computed again.

    Evaluated in float32, as the accuracy in the tables is: with nothing removed it is that accuracy.

    Args:
        run: The run, whose data are used.
        folder: Its folder.
        seeds: Number of random draws of the weights to remove.

    Returns:
        The curves; none where the run wrote no fused network.
    """
    path = fused_file(folder)
    done = {curve.where: curve for curve in stored_pruning(folder, seeds)}
    missing = [where for where in locations(run.run.variant) if where not in done]
    if path is None or not missing:
        return list(done.values())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_fused(path, device).float().to(memory_format=torch.channels_last)
    batches = list(_test_batches(run, device))
    for where in missing:
        ratios = possible_ratios(network, where)
        with full_precision(device):
            done[where] = pruning_curve(network, batches, where, ratios, range(seeds))
        _write(folder / _FILE, {"evaluated": _EVALUATED, "curves": [curve.as_dict() for curve in done.values()]})
    return list(done.values())


def possible_ratios(network: nn.Module, where: Location) -> Sequence[float]:
    """Return the ratios of Fig. 5 for which every layer has enough weights at the location."""
    sizes = {
        module.kernel_size[0]
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] == module.kernel_size[1] and _is_odd(module)
    }
    most = min(float(location_mask(where, size).float().mean()) for size in sizes)
    return [ratio for ratio in DEFAULT_RATIOS if ratio <= most]


def _is_odd(module: nn.Conv2d) -> bool:
    return module.kernel_size[0] >= 3 and module.kernel_size[0] % 2 == 1


def _test_batches(run: PlannedRun, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    data: Any = instantiate_data(run.config)
    data.prepare_data()
    data.setup("test")
    for batch in data.test_dataloader():
        # The module itself knows how its images become a network's input.
        images, labels = data.on_after_batch_transfer([part.to(device) for part in batch], 0)
        yield images, labels


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
