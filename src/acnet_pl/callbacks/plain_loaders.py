"""PlainLoaders: let a resumed run go on with the batches of loaders that keep no state of their own."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities.data import _set_sampler_epoch
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning import Trainer
from pytorch_lightning.loops.fetchers import _DataLoaderIterDataFetcher
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

__all__ = ["PlainLoaders", "seed_everything"]

_WAY_OUT = "use a loader with state_dict and load_state_dict, such as torchdata's StatefulDataLoader"


class PlainLoaders:
    """The training's loaders without ``state_dict``, whose batches become a function of the run's seed.

    Before a loader is iterated, and before each batch is drawn in this process, the global generators are seeded from
    the seed, the epoch and the number of the batch. The order of an epoch and random transforms, in workers too, are
    then drawn again when a run is resumed; batches that were trained are drawn and thrown away. Of generators that
    loader, samplers or dataset hold themselves the state at the epoch's beginning is kept.

    Attributes:
        ends_only: A checkpoint written in the middle of an epoch could not be resumed from.
    """

    def __init__(self) -> None:
        self.ends_only = False
        self._warned: set[str] = set()

    def install(self, trainer: Trainer, seed: int, told: bool) -> None:
        """Take over the loaders that Lightning has set up, if there are new ones.

        Args:
            trainer: The trainer.
            seed: The run's seed.
            told: Warn of what cannot be resumed.
        """
        loop = trainer.fit_loop
        combined = loop._combined_loader
        if combined is None or not any(_is_plain(loader) for loader in combined.flattened):
            return
        why = _unknown_position(trainer)
        endless = bool(why) and loop.max_batches == float("inf")
        self.ends_only = bool(why) and not endless
        if told and why:
            end = "a run resumed in the middle of an epoch begins the data anew" if endless else "checkpoints are "
            end += "" if endless else "written only at ends of epochs"
            self._warn(f"RunCheckpoint: {end}, as {why}, where the position is unknown; {_WAY_OUT}")
        for loader in combined.flattened:
            for name in _generators(loader)[1] if told and _is_plain(loader) else ():
                self._warn(
                    f"RunCheckpoint: a resumed run draws other numbers from {name}, whose state is not kept; draw from "
                    "NumPy's and Python's global generators or from a torch.Generator"
                )
        # Not through the setter: `trainer.train_dataloader` goes on giving what was given.
        combined._flattened = [
            _Replayed(loader, loop, f"{seed}/loader {i}", trainer.global_rank) if _is_plain(loader) else loader
            for i, loader in enumerate(combined.flattened)
        ]

    def start(self, trainer: Trainer, states: list[list[torch.Tensor]] | None) -> None:
        """Make the iterator of a training's first epoch, after `install`.

        Args:
            trainer: The trainer.
            states: What `states` returned when the checkpoint was written, if the training goes on from one.
        """
        loop = trainer.fit_loop
        resumed = loop.is_resuming
        loaders = _replayed(trainer)
        if not loaders or loop._data_fetcher is None:
            return
        unknown = _unknown_position(trainer)
        if unknown and not resumed:
            return  # a stream need not begin anew when its iterator is made again
        done = _batches_done(trainer)
        if done and unknown:
            self._warn(f"RunCheckpoint: {done} batches of this epoch may be trained twice, as {unknown}; {_WAY_OUT}")
        for i, loader in enumerate(loaders):
            loader.skip = 0 if unknown else done
            if states is not None and i < len(states):
                loader.restore(states[i])
            if resumed and getattr(loader, "persistent_workers", False):
                self._warn(
                    "RunCheckpoint: random transforms in the workers draw other numbers after resuming, as "
                    "persistent_workers=True keeps their generators from epoch to epoch; set it to False"
                )
        if resumed and trainer.world_size > 1 and any(loader.kept for loader in loaders):
            self._warn(
                "RunCheckpoint: the loaders' own generators have in every process the state of process 0 from here "
                "on; seed them alike in all processes, or give the loader none"
            )
        iter(loop._data_fetcher)

    def states(self, trainer: Trainer, trained: bool) -> list[list[torch.Tensor]]:
        """Return the states of the loaders' own generators at the beginning of the epoch, or after the training."""
        return [loader.generators() if trained else loader.kept for loader in _replayed(trainer)]

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            rank_zero_warn(message)


def stateful_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the states of the loaders that keep one of their own."""
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    return [loader.state_dict() for loader in loaders if isinstance(loader, _Stateful) and not _is_ours(loader)]


def seed_everything(what: str) -> None:
    """Seed torch's, NumPy's and Python's global generators."""
    seed = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=4).digest(), "big")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (whoever draws from the global generator)
    random.seed(seed)


class _Replayed:
    """A loader whose epochs can be drawn again; everything else is that of the loader."""

    def __init__(self, loader: Any, loop: Any, seed: str, rank: int) -> None:
        self.loader, self.skip = loader, 0
        self.kept: list[torch.Tensor] = []
        self._loop, self._seed, self._rank = loop, seed, rank
        self._passed: tuple[int, int] = (-1, 0)  # epoch, how often the loader came to its end in it

    def __getattr__(self, name: str) -> Any:
        if "loader" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    @property
    def _iterator(self) -> Any:
        return getattr(self.loader, "_iterator", None)

    @_iterator.setter
    def _iterator(self, value: Any) -> None:  # Lightning ends persistent workers by it
        if hasattr(self.loader, "_iterator"):
            self.loader._iterator = value

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._loop.epoch_progress.current.processed
        skip, self.skip = self.skip, 0
        if self._passed[0] != epoch:
            self._passed = (epoch, 0)
        name = f"{self._seed}/epoch {epoch}/{self._passed[1]}"
        _set_sampler_epoch(self.loader, epoch)
        self.kept = self.generators()
        seed_everything(name)  # the same in all processes, which have to agree on an order that they share
        return self._draw(iter(self.loader), name, skip)

    def _draw(self, batches: Iterator[Any], name: str, skip: int) -> Iterator[Any]:
        for number in itertools.count():
            seed_everything(f"{name}/{self._rank}/{number}" if number else name)  # samplers draw with the first
            try:
                batch = next(batches)
            except StopIteration:
                self._passed = (self._passed[0], self._passed[1] + 1)
                return
            if number >= skip:
                yield batch

    def generators(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in _generators(self.loader)[0]]

    def restore(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(_generators(self.loader)[0], states, strict=False):
            generator.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """Tell Lightning that this loader can be resumed; what is kept is in `PlainLoaders.states`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: `PlainLoaders.start` restores."""


def _is_ours(loader: Any) -> bool:
    return type(loader) is _Replayed


def _is_plain(loader: Any) -> bool:
    return not isinstance(loader, _Stateful)


def _replayed(trainer: Trainer) -> list[_Replayed]:
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else [loader for loader in combined.flattened if _is_ours(loader)]


def _unknown_position(trainer: Trainer) -> str:
    """Say why the batches of an epoch that were trained cannot be passed over; nothing if they can."""
    loop = trainer.fit_loop
    loaders = [] if loop._combined_loader is None else loop._combined_loader.flattened
    if isinstance(loop._data_fetcher, _DataLoaderIterDataFetcher):
        return "training_step draws the batches itself"
    if len(loaders) > 1:
        return f"the training has {len(loaders)} loaders"
    for loader in loaders:
        loader = loader.loader if _is_ours(loader) else loader
        if not isinstance(loader, DataLoader):
            return f"the loader is a {type(loader).__name__}, not a DataLoader,"
        if isinstance(loader.dataset, IterableDataset):
            return f"{type(loader.dataset).__name__} is an IterableDataset"
    return ""


def _batches_done(trainer: Trainer) -> int:
    """Return how many batches of the epoch were trained before the checkpoint that Lightning has loaded."""
    loop = trainer.fit_loop
    if not loop.restarted_mid_epoch:
        return 0
    # Lightning counts the last one later if the checkpoint was written at the end of the batch.
    done = loop.epoch_loop.batch_progress.current.completed + int(loop.epoch_loop.restarted_on_train_batch_end)
    return done if done < trainer.num_training_batches else 0


def _generators(loader: Any) -> tuple[list[torch.Generator], list[str]]:
    """Return the torch generators that a loader, its samplers and datasets hold, and the names of others."""
    found: dict[int, torch.Generator] = {}
    others, seen, left = [], set(), [loader]
    while left:
        owner = left.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, torch.Generator):
                found[id(value)] = value
            elif isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
                others.append(f"`{name}` ({type(value).__name__}) of {type(owner).__name__}")
            elif isinstance(value, (Sampler, Dataset)):
                left.append(value)
            elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Dataset):
                left.extend(value)
    return list(found.values()), others
