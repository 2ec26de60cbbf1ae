"""Averaged copies of the weights that Lightning's callbacks keep: EMA, SWA."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging
from torch.optim.swa_utils import AveragedModel

__all__ = ["averages", "holds_average", "require_averaging", "resume_averaging"]


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


def require_averaging(trainer: Trainer) -> None:
    """Check, when a training starts, that Lightning's averages begin within it.

    Raises:
        ValueError: SWA or EMA begins later. Lightning would end with its copy of the initial weights.
    """
    epochs, late = trainer.max_epochs or -1, ""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            own: int = getattr(callback, "_max_epochs", epochs)  # Lightning adds one for the batch norms
            start = callback._swa_epoch_start
            late = f"`swa_epoch_start` (={start}) of {own} epochs" if -1 < own < start else ""
        elif (step := getattr(callback, "update_starting_at_step", None)) is not None:
            steps, epoch = trainer.estimated_stepping_batches, callback.update_starting_at_epoch
            if step >= steps and (epoch is None or -1 < epochs <= epoch):
                late = f"`update_starting_at_step` (={step}) of {steps} steps"
                late += "" if epoch is None else f", `update_starting_at_epoch` (={epoch}) of {epochs} epochs"
        if late:
            raise ValueError(
                f"{type(callback).__name__} would average nothing, and the training would end with its initial "
                f"weights: it starts at {late}; give an earlier start, or train longer"
            )


def resume_averaging(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let SWA go on in the epoch that the checkpoint lies in.

    Lightning calls no ``on_train_epoch_start`` in an epoch that it resumes. SWA prepares there the pass that computes
    the batch norms' statistics, and its schedule, which is otherwise missing for the rest of the epoch.
    """
    if not trainer.fit_loop.restarted_mid_epoch:
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging):
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            rates = [{key: value for key, value in group.items() if key != "params"} for group in groups]
            callback.on_train_epoch_start(trainer, pl_module)
            for group, kept in zip(groups, rates, strict=True):
                group.update(kept)  # a new schedule begins by setting its own learning rate
