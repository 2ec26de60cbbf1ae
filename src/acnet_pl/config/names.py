"""Find the existing name nearest to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import takewhile

__all__ = ["did_you_mean", "nearest", "nearest_option"]

# Words that other programs have for an option.
_SYNONYMS = {
    "arch": "model.backbone",
    "architecture": "model.backbone",
    "block": "model.conv",
    "dataset": "data",
    "gpus": "trainer.devices",
    "learning_rate": "model.optimizer.lr",
    "network": "model.backbone",
    "num_epochs": "trainer.max_epochs",
    "output": "runs_dir",
    "scheduler": "model.schedule",
    "seed": "seed_everything",
    "wd": "model.optimizer.weight_decay",
}


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6, beginning: int | None = None) -> str | None:
    """Return the known name most similar to another, or None if none is similar.

    Args:
        name: Name that does not exist.
        known: Names that exist.
        cutoff: Least likeness, from 0 to 1.
        beginning: If none is alike, return the one that shares the most first letters, at least so many:
            with 4, ``CIFAR10`` is ``CIFARDataModule``.
    """
    by_lower = {other.lower(): other for other in known}
    lower = name.lower()
    found = difflib.get_close_matches(lower, by_lower, n=1, cutoff=cutoff)
    if not found and beginning is not None:
        shared = {
            other: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lower, other, strict=False)))
            for other in by_lower
        }
        found = sorted((other for other in shared if shared[other] >= beginning), key=lambda other: -shared[other])
    return by_lower[found[0]] if found else None


def nearest_option(name: str, known: Sequence[str]) -> str | None:
    """Return the dotted name of the option that was probably meant.

    The last part counts most: ``lr`` is ``model.optimizer.lr``, ``data.batchsize`` is ``data.batch_size``.

    Args:
        name: Dotted name that no option has.
        known: Dotted names of the options, the more common ones first.
    """
    name = name.replace("-", "_")
    if name in known:
        return name
    parent, _, last = name.rpartition(".")
    if last in _SYNONYMS and _SYNONYMS[last] in known and not parent:
        return _SYNONYMS[last]

    def likeness(other: str) -> float:
        above, _, own = other.rpartition(".")
        score = max(difflib.SequenceMatcher(None, last, own).ratio(), 0.9 * (last in own.split("_")))
        whole = difflib.SequenceMatcher(None, name, other).ratio()
        return (
            score + (0.25 if parent else 0.15) * (above == parent) + 0.01 * whole if max(score, whole) >= 0.7 else 0.0
        )

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0 else None


def did_you_mean(name: str | None) -> str:
    """Return ``; did you mean NAME?``, or nothing for None."""
    return "" if name is None else f"; did you mean {name}?"
