"""EpochTimer: how long the training part of each epoch takes."""

from __future__ import annotations

import time

from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["EpochTimer"]


class EpochTimer(Callback):
    """Log ``time/epoch``: seconds from an epoch's first training step to its last, without validation.

    ``seconds`` holds one number per epoch. On a GPU the clock waits for the device at the end of the epoch only.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation at the end of an epoch."""
        if trainer.training and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where there was no validation, and log."""
        self._stop(trainer)
        if self.seconds:
            pl_module.log("time/epoch", self.seconds[-1], rank_zero_only=True)

    def _stop(self, trainer: Trainer) -> None:
        if self._start is not None:
            trainer.strategy.barrier()
            if trainer.strategy.root_device.type == "cuda":
                import torch

                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self._start)
            self._start = None
