"""Averaged copies of the weights that Lightning's callbacks keep: EMA, SWA."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.optim.swa_utils import AveragedModel

__all__ = ["averages", "holds_average"]


def averages(trainer: Trainer) -> Iterator[LightningModule]:
    """Yield the averaged copies of the LightningModule that Lightning's callbacks keep."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        average = average.module if isinstance(average, AveragedModel) else average
        if isinstance(average, LightningModule):
            yield average


def holds_average(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Return True if the LightningModule has the parameters of an average, as after a training with EMA or SWA."""
    own = {name: parameter.detach().cpu() for name, parameter in pl_module.named_parameters()}
    return any(
        all(name in own and torch.equal(own[name], parameter.cpu()) for name, parameter in average.named_parameters())
        for average in averages(trainer)
    )
