"""EpochTimer: time the training part of each epoch."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["EpochTimer"]


class EpochTimer(Callback):
    """Log ``time/epoch``: seconds from an epoch's first training step to its last, without validation.

    ``seconds`` holds one number per epoch. On a GPU the clock waits for the device at the end of the epoch only.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start: float | None = None
        self._before = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of finished epochs and of the current one."""
        running = 0.0 if self._start is None else time.perf_counter() - self._start
        return {"seconds": list(self.seconds), "running": running}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the clock."""
        self.seconds, self._before = list(state_dict["seconds"]), state_dict["running"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock at the first batch of an epoch, or after a resume."""
        if self._start is None:
            self._start = time.perf_counter() - self._before
            self._before = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock after the last batch, when the slowest process is done."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or self._start is None:
            return
        trainer.strategy.barrier()
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self._start = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the seconds."""
        if self._start is None and self.seconds:
            pl_module.log("time/epoch", self.seconds[-1], rank_zero_only=True)
