"""The order of the training images: a function of (seed, epoch), and resumable in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from acnet_pl.data.images import Batch, InMemoryImages
from acnet_pl.data.random_words import random_words

__all__ = ["TrainingLoader", "TrainingSampler"]


class TrainingSampler(DistributedSampler[Batch]):
    """Shuffles the data set for each epoch and deals it to the processes.

    The order depends on ``(seed, epoch)`` alone, and the batches of all processes at a step make up the batch of a
    single process at that step. Lightning calls `set_epoch` and, because this is a DistributedSampler, leaves it in
    its place.

    Args:
        dataset: What is dealt.
        num_replicas: Number of processes.
        rank: This process.
        seed: Seed of the run. Neighbouring seeds give unrelated orders.
        drop_last: Drop the samples that cannot be dealt evenly, rather than repeat some.
    """

    def __init__(self, dataset: InMemoryImages, *, num_replicas: int, rank: int, seed: int, drop_last: bool) -> None:
        # DistributedSampler seeds a 32-bit generator with seed + epoch: seeds 0, 1, ... would share their orders.
        spread = int(random_words(seed, 0, torch.tensor(0))) % 2**31
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=spread, drop_last=drop_last)
        self._taken = 0
        self._resume_epoch, self._resume_at = -1, 0

    def __iter__(self) -> Iterator[Any]:
        self._taken = self._resume_at if self.epoch == self._resume_epoch else 0
        self._resume_epoch = -1
        for index in islice(super().__iter__(), self._taken, None):
            self._taken += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many samples of it all processes together have taken."""
        return {"epoch": self.epoch, "taken": self._taken * self.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin where the saved one stood, if it is a pass of the same epoch."""
        self._resume_epoch, self._resume_at = state["epoch"], state["taken"] // self.num_replicas


class TrainingLoader(DataLoader[Batch]):
    """A DataLoader that Lightning saves with its checkpoints, so that a resumed epoch goes on where it stood."""

    def state_dict(self) -> dict[str, Any]:
        """The sampler's position; nothing where Lightning has put another sampler in its place (overfit_batches)."""
        return self.sampler.state_dict() if isinstance(self.sampler, TrainingSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the saved position."""
        if state and isinstance(self.sampler, TrainingSampler):
            self.sampler.load_state_dict(state)
