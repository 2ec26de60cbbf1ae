"""Remove weights at chosen places of the kernels and measure accuracy (Sect. 4.4, Fig. 5)."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.markup import escape
from rich.progress import track
from torch import nn

from acnet_pl.analysis.evaluation import Batches, accuracy, evaluating
from acnet_pl.analysis.locations import Location, location_mask
from acnet_pl.nn import FusibleConv, fuse_model

__all__ = ["DEFAULT_RATIOS", "PruningCurve", "prune_by_location", "pruning_curve"]

# The text names 13 % of the skeleton and 44 % of the corners, which is just possible there.
DEFAULT_RATIOS = tuple(percent / 100 for percent in sorted({*range(0, 45, 4), 13}))


@dataclass(frozen=True)
class PruningCurve:
    """One curve of Fig. 5.

    Attributes:
        where: Where weights were removed.
        ratios: Sparsity ratios of every k×k layer, 0 to 1.
        seeds: The random seeds.
        accuracies: Per ratio, the accuracy (0 to 1) of each seed.
    """

    where: Location
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean over the seeds, per ratio."""
        return tuple(statistics.fmean(values) for values in self.accuracies)

    @property
    def std(self) -> tuple[float, ...]:
        """Return the sample standard deviation over the seeds (n - 1), per ratio; 0 for one seed."""
        return tuple(statistics.stdev(values) if len(values) > 1 else 0.0 for values in self.accuracies)

    def as_dict(self) -> dict[str, Any]:
        """Return attributes, mean and std by name, as JSON types."""
        return {
            "where": self.where,
            "ratios": list(self.ratios),
            "seeds": list(self.seeds),
            "accuracies": [list(values) for values in self.accuracies],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __str__(self) -> str:
        rows = [
            f"  {ratio:6.1%}  {mean:7.2%} ± {100 * std:.2f}"
            for ratio, mean, std in zip(self.ratios, self.mean, self.std, strict=True)
        ]
        return "\n".join([f"accuracy after pruning: {self.where}, n = {len(self.seeds)}", *rows])


def prune_by_location(
    model: nn.Module, where: Location, ratio: float, seed: int = 0, kernel_size: int | None = None
) -> nn.Module:
    """Set randomly chosen weights to zero, at one location of the kernels (Sect. 4.4).

    Every layer with odd square kernels of 3×3 or more reaches the ratio by itself: of its n weights, round(ratio * n)
    are removed, all at the location, each weight there with equal chance. With the same seed, what is removed at a
    smaller ratio is also removed at a larger one. Other layers stay as they are.

    Args:
        model: Any network. Blocks (ACBlock, ConvNorm) are fused first, as in the article.
        where: "corner", "skeleton", "global", "border" or "top_left", as `location_mask` says.
        ratio: Share of *all* the weights of each layer, 0 to 1.
        seed: Chooses the weights; the same on every device. The global random state is not touched.
        kernel_size: Only prune layers with kernels of this size.

    Returns:
        A pruned copy in eval mode; the model stays as it is.

    Raises:
        ValueError: The location does not have that many weights (4/9 are at the corners of 3×3 kernels, 5/9 in their
            skeleton), no layer has such kernels, or a weight is computed from others (weight norm, parametrisation).
    """
    pruned = _fused_copy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = list(_prunable(pruned, kernel_size))
    if not layers:
        wanted = "odd square kernels of 3×3 or more" if kernel_size is None else f"{kernel_size}×{kernel_size} kernels"
        raise ValueError(f"the model has no convolution with {wanted}: there is nothing to prune")
    for name, conv in layers:
        if not isinstance(conv.weight, nn.Parameter):
            raise ValueError(f"the weight of {name!r} is computed from others; remove that parametrisation first")
        mask = location_mask(where, conv.kernel_size[0])
        _check_ratio(ratio, where, int(mask.sum()), mask.numel(), name)
        candidates = mask.expand(conv.weight.shape).flatten().nonzero().flatten()
        count = min(round(ratio * conv.weight.numel()), len(candidates))
        chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
        kept = torch.ones(conv.weight.numel(), dtype=torch.bool)
        kept[chosen] = False
        with torch.no_grad():
            conv.weight.masked_fill_(~kept.reshape(conv.weight.shape).to(conv.weight.device), 0)
    return pruned


def pruning_curve(
    model: nn.Module,
    evaluate: Batches | Callable[[nn.Module], float],
    where: Location,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    seeds: Sequence[int] = range(5),
    *,
    kernel_size: int | None = None,
    progress: bool = True,
) -> PruningCurve:
    """Measure accuracy against the ratio of weights removed at a location: one curve of Fig. 5.

    Args:
        model: Any network; stays as it is.
        evaluate: Pairs of normalised images and labels, evaluated by `accuracy`; or a function from a model to a
            number. An iterator that could be used only once is kept in memory.
        where: As for `prune_by_location`.
        ratios: Sparsity ratios, 0 to 1.
        seeds: One run each.
        kernel_size: As for `prune_by_location`.
        progress: Show a progress bar.

    Raises:
        ValueError: As `prune_by_location`, before anything is evaluated; or there are no ratios or seeds.
    """
    if not len(ratios) or not len(seeds):
        raise ValueError(f"give at least one ratio and one seed, got {len(ratios)} and {len(seeds)}")
    fused = _fused_copy(model)
    prune_by_location(fused, where, max(ratios), kernel_size=kernel_size)
    prune_by_location(fused, where, min(ratios), kernel_size=kernel_size)
    if callable(evaluate):
        score = evaluate
    else:
        batches = list(evaluate) if isinstance(evaluate, Iterator) else evaluate

        def score(pruned: nn.Module) -> float:
            return accuracy(pruned, batches)

    runs = [(ratio, seed) for ratio in ratios for seed in (seeds if ratio > 0 else seeds[:1])]
    results: dict[float, list[float]] = {ratio: [] for ratio in ratios}
    for ratio, seed in track(runs, escape(f"Pruning ({where})"), disable=not progress):
        results[ratio].append(score(prune_by_location(fused, where, ratio, seed, kernel_size)))
    for ratio, values in results.items():
        if ratio == 0:  # nothing is removed, so that every seed gives the same
            results[ratio] = values * len(seeds)
    return PruningCurve(where, tuple(ratios), tuple(seeds), tuple(tuple(results[ratio]) for ratio in ratios))


def _fused_copy(model: nn.Module) -> nn.Module:
    if not any(isinstance(module, FusibleConv) for module in model.modules()):
        return copy.deepcopy(model).eval()
    with evaluating(model):
        return fuse_model(model).eval()


def _prunable(model: nn.Module, kernel_size: int | None) -> Iterator[tuple[str, nn.Conv2d]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            if height == width and height >= 3 and height % 2 == 1 and kernel_size in (None, height):
                yield name, module


def _check_ratio(ratio: float, where: Location, available: int, positions: int, layer: str) -> None:
    if not 0 <= ratio <= available / positions + 1e-9:
        raise ValueError(
            f"`ratio` (={ratio:g}) must be between 0 and {available}/{positions} = {available / positions:.1%} for "
            f"where={where!r}: {layer or 'the model'!r} has no more weights there"
        )
