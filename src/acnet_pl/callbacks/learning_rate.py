"""LearningRate: log the learning rate of each optimizer's first parameter group."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

__all__ = ["LearningRate"]


class LearningRate(Callback):
    """Log ``lr``, the learning rate of the optimizer's first parameter group, at training steps.

    Other groups usually follow the first by a constant factor. Of several optimizers each has its curve: ``lr/0``,
    ``lr/1``.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the rate of the coming step."""
        if not trainer._logger_connector.should_update_logs:
            return
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        names = ["lr"] if len(rates) == 1 else [f"lr/{index}" for index in range(len(rates))]
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            figures = {name: float(rate) for name, rate in zip(names, rates, strict=True)}
            logger.log_metrics({"epoch": trainer.current_epoch, **figures}, step=step)
