"""Send tables and files to whichever of a trainer's loggers can show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger

__all__ = ["log_file", "log_scalars", "log_table"]


def log_scalars(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Log numbers where ``LightningModule.log`` cannot: outside of the loops. Does nothing but on rank zero."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=trainer.global_step)
        logger.save()


def log_table(trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Log a table to Weights & Biases, if that is one of the loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows])


def log_file(trainer: Trainer, path: Path, name: str, kind: str, about: Mapping[str, Any]) -> None:
    """Log a file as a versioned artifact to Weights & Biases, if that is one of the loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            import wandb

            artifact = wandb.Artifact(f"{name}-{logger.experiment.id}", type=kind, metadata=dict(about))
            artifact.add_file(str(path))
            logger.experiment.log_artifact(artifact)
