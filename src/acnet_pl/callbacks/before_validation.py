"""BeforeValidation: keep the state to resume from if a run is stopped during validation."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from acnet_pl.checkpoint import AtomicCheckpointIO

__all__ = ["BeforeValidation"]


class BeforeValidation:
    """In-memory checkpoint of the last moment before a validation at which one can be written.

    In the middle of a validation there is no state to go on from: that of the batch before it is kept while it lasts.
    Only strategies with a whole copy of the weights in each process are served; under others nothing is kept.
    """

    def __init__(self) -> None:
        self._at: int | None = None
        self._kept = False
        self._content = b""  # in the first process

    def plan(self, trainer: Trainer, done: int) -> bool:
        """Return True if the state after ``done`` batches of the epoch is the last one before a validation.

        Args:
            trainer: The trainer, between two batches.
            done: Batches of this epoch that are done; no gradients are half accumulated.
        """
        self._at = done if _is_last_moment(trainer, done) else None
        return self._at is not None

    def keep(self, trainer: Trainer, batch_idx: int, dump: Callable[[], dict[str, Any]]) -> None:
        """Keep the result of ``dump`` at the planned moment; every process has to call it."""
        if self._at != batch_idx:
            return
        self._at = None
        checkpoint = dump()
        self._kept = True
        if trainer.is_global_zero:
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            self._content = buffer.getvalue()

    def write(self, trainer: Trainer, path: Path, previous: Path) -> bool:
        """Write the kept checkpoint in the first process, and return True if there was one.

        Args:
            trainer: The trainer.
            path: File to write.
            previous: Where the file that it replaces is kept.
        """
        store = trainer.strategy.checkpoint_io
        if self._kept and self._content and isinstance(store, AtomicCheckpointIO):
            store.write(self._content, path, previous)
        return self._kept

    def drop(self) -> None:
        """Forget the kept checkpoint."""
        self._kept, self._content = False, b""


def _is_last_moment(trainer: Trainer, done: int) -> bool:
    strategy = trainer.strategy
    if not trainer.enable_validation or not isinstance(strategy, (DDPStrategy, SingleDeviceStrategy)):
        return False
    if not isinstance(strategy.checkpoint_io, AtomicCheckpointIO):
        return False
    every = trainer.check_val_every_n_epoch
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    if trainer.val_check_batch is None:  # by time: nobody knows before which batch
        return False
    batches = int(min(trainer.num_training_batches, 2**62))
    between = max(1, int(min(trainer.val_check_batch, batches)))
    validated_after = min(done // between * between + between, batches)
    return done + trainer.accumulate_grad_batches >= validated_after > done
