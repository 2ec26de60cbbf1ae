"""The loggers of a run: metrics.csv in its folder, and Weights & Biases, offline unless told otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.loggers import Logger, WandbLogger

from acnet_pl.callbacks import MetricsCSV
from acnet_pl.callbacks.sigterm import EXIT_TERMINATED
from acnet_pl.cli.resume import wandb_id
from acnet_pl.config.own_options import WandbOptions

__all__ = ["backbone_name", "make_loggers", "run_name", "wandb_run_ends"]


def make_loggers(
    folder: Path, name: str, options: WandbOptions, model: dict[str, Any], data: LightningDataModule
) -> list[Logger]:
    """The loggers of a run.

    Args:
        folder: The run's folder, in which everything is kept.
        name: Name of the run.
        options: Weights & Biases.
        model: The `ImageClassifier`'s hyper-parameters.
        data: The data module.
    """
    loggers: list[Logger] = [MetricsCSV(folder)]
    mode = options.mode or os.environ.get("WANDB_MODE", "offline")
    if mode == "disabled":
        return loggers
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    kind = "plain" if _class_name(model["conv"]) == "PlainConv" else "acnet"
    dataset = getattr(data, "dataset", type(data).__name__.removesuffix("DataModule"))
    logger = WandbLogger(
        name=f"{name}/{folder.name}",
        id=wandb_id(folder),
        save_dir=str(folder),
        project=options.project,
        offline=mode == "offline",
        group=options.group or f"{dataset}-{backbone_name(model)}",
        job_type=kind,
        tags=[*options.tags, kind, backbone_name(model)],
        # Quiet, and hands off the terminal that the progress bar draws on.
        settings=wandb.Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it always, and wandb warns of it always
    return [*loggers, logger]


@contextmanager
def wandb_run_ends() -> Iterator[None]:
    """End the Weights & Biases run with the command, or the next one in this process would go on writing to it.

    A run that SIGTERM stopped is marked as preempted: it can be gone on with, and a sweep queues it again.
    """
    exit_code = 1
    try:
        yield
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
        raise
    finally:
        wandb = sys.modules.get("wandb")  # importing it takes a second, and it may never have been needed
        if wandb is not None and wandb.run is not None:
            if exit_code == EXIT_TERMINATED:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=exit_code)


def run_name(model: dict[str, Any]) -> str:
    """Backbone and conv builder of an `ImageClassifier`'s hyper-parameters: the name of a run that was given none."""
    return f"{backbone_name(model)}-{_class_name(model['conv'])}"


def backbone_name(model: dict[str, Any]) -> str:
    """Class and options of the backbone, like ``ResNetCifar-56-projection``."""
    options = model["backbone"]["init_args"].values()
    return "-".join(
        [_class_name(model["backbone"]), *(str(value) for value in options if isinstance(value, (int, str)))]
    )


def _class_name(description: dict[str, Any]) -> str:
    return str(description["class_path"]).rpartition(".")[2]
