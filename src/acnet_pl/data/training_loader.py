"""Order of the training images: it depends on (seed, epoch) alone, and can be resumed in the middle of an epoch."""

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from acnet_pl.data.errors import DataError
from acnet_pl.data.images import Batch
from acnet_pl.data.random_words import random_words

__all__ = ["EpochSampler", "Progress", "TrainingLoader", "TrainingSampler", "raising"]


class TrainingSampler(DistributedSampler[Batch]):
    """Shuffles the data set for each epoch and splits it among the processes.

    The order depends on ``(seed, epoch)`` alone, and the batches of all processes at a step make up the batch of a
    single process at that step. Lightning calls `set_epoch` and, because this is a DistributedSampler, leaves it in
    its place.

    Args:
        dataset: The samples.
        num_replicas: Number of processes.
        rank: This process.
        seed: Seed of the run. Neighbouring seeds give unrelated orders.
        drop_last: Drop the samples that would make shares unequal, rather than repeat some.
    """

    def __init__(self, dataset: Sized, *, num_replicas: int, rank: int, seed: int, drop_last: bool) -> None:
        # DistributedSampler seeds a 32-bit generator with seed + epoch: seeds 0, 1, ... would share their orders.
        spread = int(random_words(seed, 0, torch.tensor(0))) % 2**31
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=spread, drop_last=drop_last)  # type: ignore[arg-type]
        self._taken = 0
        self._resume_epoch, self._resume_at = -1, 0

    def __iter__(self) -> Iterator[Any]:
        start = self._taken = self.start
        self._resume_epoch = -1
        for index in islice(self.whole_pass(), start, None):
            self._taken += 1
            yield index

    @property
    def start(self) -> int:
        """Return the number of this process's samples to skip at the beginning of the next pass."""
        return self._resume_at if self.epoch == self._resume_epoch else 0

    def whole_pass(self) -> Iterator[int]:
        """Return an iterator over this process's samples of the whole epoch."""
        return iter(super().__iter__())  # type: ignore[arg-type]

    def state_dict(self, taken: int | None = None) -> dict[str, int]:
        """Return the epoch, and the number of its samples that all processes together have consumed.

        Args:
            taken: Samples that this process has consumed; the default is all that the sampler has yielded.
        """
        return {"epoch": self.epoch, "taken": (self._taken if taken is None else taken) * self.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next pass at the saved position, if it is a pass of the saved epoch."""
        self._resume_epoch, self._resume_at = state["epoch"], state["taken"] // self.num_replicas


class EpochSampler(TrainingSampler):
    """Yields ``epoch * len + index``, because decoding processes do not know the epoch.

    Args:
        dataset: The samples.
        num_replicas: Number of processes.
        rank: This process.
        seed: Seed of the run.
        drop_last: Drop the samples that would make shares unequal.
        order: Returns the order of an epoch, int64 ``(len(dataset),)``, instead of a random permutation.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        num_replicas: int,
        rank: int,
        seed: int,
        drop_last: bool,
        order: Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed, drop_last=drop_last)
        self._length = len(dataset)
        self._order = order

    def whole_pass(self) -> Iterator[int]:
        """Yield this process's samples of the epoch, as index + epoch × length."""
        indices = super().whole_pass() if self._order is None else iter(self.share())
        return (index + self.epoch * self._length for index in indices)

    def share(self) -> list[int]:
        """Return this process's samples of an epoch whose order was given."""
        if self._order is None:
            raise RuntimeError("the order is a random permutation; take `whole_pass`")
        share: list[int] = self._order(self.epoch)[: self.total_size][self.rank :: self.num_replicas].tolist()
        return share


class Progress(Protocol):
    """Object that a `TrainingLoader` tells its position in the epoch."""

    def begin(self, position: int) -> None:
        """Begin a pass after `position` samples of this process."""

    def advance(self, position: int) -> None:
        """Record that `position` samples of the epoch were consumed."""


class TrainingLoader(DataLoader[Batch]):
    """DataLoader whose position Lightning saves in checkpoints, so that a resumed epoch continues from there.

    A batch counts as consumed when the loader yields it; worker processes may have loaded later ones already.

    Args:
        dataset: The samples.
        progress: Told the number of the epoch's samples that this process has consumed.
        **kwargs: Arguments of DataLoader.
    """

    def __init__(self, dataset: Dataset[Batch], *, progress: Progress | None = None, **kwargs: Any) -> None:
        self.progress = progress
        self._handed: int | None = None
        super().__init__(dataset, **kwargs)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if not isinstance(self.sampler, TrainingSampler):
            yield from raising(super().__iter__())
            return
        size = self.batch_size or 1
        self._handed = start = self.sampler.start
        batches = super().__iter__()
        if self.progress is not None:
            self.progress.begin(start)  # after the workers have started, so that they do not inherit what it opens
        for number, batch in enumerate(raising(batches), 1):
            self._handed = min(start + number * size, self.sampler.num_samples)
            if self.progress is not None:
                self.progress.advance(self._handed)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch; {} if Lightning has replaced the sampler, as for ``overfit_batches``."""
        return self.sampler.state_dict(self._handed) if isinstance(self.sampler, TrainingSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the saved position."""
        if state and isinstance(self.sampler, TrainingSampler):
            self.sampler.load_state_dict(state)


def raising(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches until one is an error, and raise it.

    Worker processes return errors as batches: an error that they raise would arrive with their tracebacks.

    Raises:
        DataError: A worker process returned it, or was killed.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(
                f"a process that loads images was ended from outside ({error}); if memory ran out, give fewer with "
                "--data.num_workers or make `batch_size` smaller, then go on with --resume auto"
            ) from error
        if isinstance(batch, DataError):
            raise batch
        yield batch
