"""Order samples of shards at random, a few shards at a time, and fetch shards ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from acnet_pl.data.errors import DataError
from acnet_pl.data.random_words import random_words
from acnet_pl.data.shards import ShardSplit

__all__ = ["BLOCK", "LANES", "ShardPrefetcher", "shard_order"]

LANES = 64
"""Lanes of an order. If the number of processes divides it, they read disjoint shards (except at lanes' ends)."""
BLOCK = 2048
"""Samples of a lane that are shuffled together. Shards hold samples in random order already."""
_CONNECTIONS = 4


def shard_order(sizes: Sequence[int], seed: int, epoch: int, block: int = BLOCK, lanes: int = LANES) -> Tensor:
    """Return the order of an epoch: shards are shuffled, spread over lanes, and shuffled within blocks of a lane.

    Position ``p`` belongs to lane ``p % lanes``. If n divides the number of lanes, a process that takes every n-th
    sample therefore takes whole lanes: it reads its own shards alone, and only a few at a time. The order of all
    processes together depends on ``(sizes, seed, epoch)`` alone, not on the number of processes.

    Args:
        sizes: Samples in each shard; sample numbers count through them.
        seed: Seed of the run.
        epoch: Number of the epoch.
        block: Samples of a lane that are shuffled together.
        lanes: Number of lanes; a divisor of it where there are fewer shards.

    Returns:
        int64 ``(sum(sizes),)``, a permutation.

    Examples:
        >>> order = shard_order([4, 4, 4, 4], seed=0, epoch=0, lanes=2)
        >>> sorted(order.tolist()) == list(range(16))
        True
        >>> set((order[::2] // 4).tolist()) & set((order[1::2] // 4).tolist())  # shards of both lanes
        set()
    """
    lanes = max(n for n in range(1, lanes + 1) if lanes % n == 0 and n <= max(len(sizes), 1))
    shards = random_words(seed, epoch, torch.arange(len(sizes))).argsort(stable=True).tolist()
    firsts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    sequence = torch.cat([torch.arange(firsts[n], firsts[n + 1]) for n in shards])
    even = len(sequence) // lanes * lanes
    lane = sequence[:even].view(lanes, -1)
    blocks = [_shuffled(part, seed, epoch) for part in torch.split(lane, block, dim=1)]
    return torch.cat([*(part.T.flatten() for part in blocks), sequence[even:]])


def _shuffled(lanes: Tensor, seed: int, epoch: int) -> Tensor:
    return lanes.gather(1, random_words(~seed, epoch, lanes).argsort(dim=1, stable=True))


class ShardPrefetcher:
    """Background download of an epoch's remote shards into a cache of limited size.

    Args:
        split: Images whose shards are fetched.
        share: Returns this process's samples of the coming epoch, in order.
        ahead: Samples before its first use at which a shard is fetched.
    """

    def __init__(self, split: ShardSplit, share: Callable[[], Sequence[int]], ahead: int) -> None:
        self._split = split
        self._share = share
        self._ahead = ahead
        self._position = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._last_use: dict[int, int] = {}
        self._coming: Iterator[tuple[int, int]] = iter(())

    def begin(self, position: int) -> None:
        """Start an epoch at a position, counted in samples of this process."""
        self.stop()
        shards = (torch.searchsorted(self._split.firsts, torch.tensor(self._share()), right=True) - 1).tolist()
        self._last_use = {number: place for place, number in enumerate(shards)}
        first_use = {number: -place for place, number in enumerate(reversed(shards), 1 - len(shards))}
        self._coming = iter(sorted(first_use.items(), key=lambda item: item[1]))
        self._position = position
        self._stopped = False
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def advance(self, position: int) -> None:
        """Record how many samples were consumed."""
        with self._changed:
            self._position = position
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop fetching, and wait for running downloads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self) -> None:
        while (number := self._next()) is not None:
            position = self._position
            names = [shard.name for shard in self._split.shards]
            used = sorted((last, shard) for shard, last in self._last_use.items() if last < position)
            # Shards of an earlier epoch that another machine reads now would otherwise stay for ever.
            others = [names[shard] for shard in range(len(names)) if shard not in self._last_use]
            try:
                self._split.store.fetch(names[number])
                self._split.store.discard([names[shard] for _, shard in used], others)
            except (DataError, OSError):  # who needs the shard will try again, and report why it cannot be had
                continue

    def _next(self) -> int | None:
        """Wait until a shard is needed within ``ahead`` samples, and return its number; None at the end."""
        with self._changed:
            for number, first in self._coming:
                while not self._stopped and first >= self._position + self._ahead:
                    self._changed.wait()
                if self._stopped:
                    return None
                if self._last_use[number] >= self._position:
                    return number
        return None
