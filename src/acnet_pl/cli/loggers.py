"""The loggers of a run: metrics.csv in its folder, and Weights & Biases, offline unless told otherwise."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import tensorboard
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from acnet_pl.callbacks.sigterm import EXIT_TERMINATED
from acnet_pl.cli.resume import wandb_id
from acnet_pl.config.own_options import WandbOptions
from acnet_pl.loggers import MetricsCSV, RunWandbLogger

__all__ = [
    "SaveConfig",
    "backbone_name",
    "in_run_folder",
    "know_run_folder",
    "make_loggers",
    "require_packages",
    "run_name",
    "wandb_group",
    "wandb_logger",
    "wandb_mode",
    "wandb_run_ends",
]

_RUN_FOLDER = ""


class SaveConfig(SaveConfigCallback):
    """Send the whole configuration to the loggers; the command line has written it to the run's folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the configuration to Weights & Biases."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update({"config": self.config.as_dict()}, allow_val_change=True)


def make_loggers(
    folder: Path, name: str, options: WandbOptions, mode: str, model: dict[str, Any], data: LightningDataModule
) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        folder: The run's folder, in which everything is kept.
        name: Name of the run.
        options: Weights & Biases.
        mode: "offline", "online" or "disabled".
        model: The `ImageClassifier`'s hyper-parameters.
        data: The data module.
    """
    loggers: list[Logger] = [MetricsCSV(folder)]
    if mode == "disabled":
        return loggers
    kind = "plain" if _class_name(model["conv"]) == "PlainConv" else "acnet"
    group = options.group or wandb_group(
        getattr(data, "dataset", type(data).__name__.removesuffix("DataModule")), model
    )
    tags = [kind, backbone_name(model)]
    logger = wandb_logger(folder, f"{name}/{folder.name}", options, mode, group, kind, tags)
    return [*loggers, logger]


def wandb_logger(
    folder: Path, name: str, options: WandbOptions, mode: str, group: str, kind: str, tags: Sequence[str]
) -> RunWandbLogger:
    """Return the Weights & Biases logger of a folder; what was logged there before is continued.

    Args:
        folder: In which everything is kept.
        name: Name of the run.
        options: Project and tags.
        mode: "offline" or "online".
        group: Group of runs to be compared.
        kind: W&B's job type.
        tags: Beside those of the options.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return RunWandbLogger(
        name=name,
        id=wandb_id(folder),
        # W&B's service may have been started for another run, in another working directory.
        save_dir=str(folder.absolute()),
        project=options.project,
        offline=mode in ("offline", "dryrun"),
        group=group,
        job_type=kind,
        tags=[*options.tags, *tags],
        # Quiet, and hands off the terminal that the progress bar draws on.
        settings=wandb.Settings(silent=True, console="off"),
    )


def wandb_group(dataset: str, model: Mapping[str, Any]) -> str:
    """Return the default group of a run: data set and backbone, so that a plain net and its ACNet pair up."""
    return f"{dataset}-{backbone_name(model)}"


def wandb_mode(options: WandbOptions, command: str | None) -> str:
    """Return whether Weights & Biases is written: as asked for, else offline in training and not in an evaluation.

    `predict` logs nothing, so that the environment, which is of all commands, does not count.

    Raises:
        ValueError: WANDB_MODE says something that W&B does not know.
    """
    if options.mode:
        return options.mode
    if not (mode := os.environ.get("WANDB_MODE")):
        os.environ.pop("WANDB_MODE", None)  # an empty one is refused by W&B
    if not mode or command == "predict":
        return "offline" if command == "fit" else "disabled"
    if mode not in (known := ("offline", "online", "disabled", "dryrun", "run", "shared")):
        raise ValueError(f"the environment variable WANDB_MODE (={mode!r}) must be one of {', '.join(known)}")
    return mode


def know_run_folder() -> None:
    """Allow loggers on the command line without ``save_dir``; `in_run_folder` sets it."""
    for kind in (CSVLogger, TensorBoardLogger):
        signature = inspect.signature(kind.__init__)
        parameters = [
            parameter.replace(default=_RUN_FOLDER) if name == "save_dir" else parameter
            for name, parameter in signature.parameters.items()
        ]
        vars(kind.__init__)["__signature__"] = signature.replace(parameters=parameters)


def require_packages(options: Any) -> None:
    """Check that the packages of the requested loggers are installed.

    Args:
        options: The configuration of ``trainer.logger``.

    Raises:
        ValueError: It is not.
    """
    for description in options if isinstance(options, (list, tuple)) else [options]:
        name = str(getattr(description, "class_path", "")).rpartition(".")[2]
        if name == "TensorBoardLogger" and not (
            tensorboard._TENSORBOARD_AVAILABLE or tensorboard._TENSORBOARDX_AVAILABLE
        ):
            raise ValueError(
                "--trainer.logger TensorBoardLogger: neither `tensorboard` nor `tensorboardX` is installed; run "
                "pip install 'acnet-pl[tensorboard]'"
            )


def in_run_folder(folder: Path, given: Any, options: Any) -> list[Logger]:
    """Return the requested loggers and ``metrics.csv``, all in the run's folder unless they name another.

    Args:
        folder: The run's folder.
        given: One or several loggers, as the command line made them.
        options: Their configuration.
    """
    loggers: list[Logger] = [MetricsCSV(folder)]
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    descriptions = list(options) if isinstance(options, (list, tuple)) else [options]
    for logger, description in zip(several, descriptions, strict=True):
        arguments = dict(description.init_args)
        if arguments.get("save_dir") in (_RUN_FOLDER, "."):
            if isinstance(logger, CSVLogger):
                continue  # metrics.csv is that already
            if isinstance(logger, TensorBoardLogger):
                arguments.update(name="", version="")
            logger = type(logger)(**{**arguments, "save_dir": str(folder)})
        loggers.append(logger)
    return loggers


@contextmanager
def wandb_run_ends() -> Iterator[None]:
    """End the Weights & Biases run with the command; otherwise the next one would continue it.

    A run that SIGTERM stopped is marked as preempted: it can be resumed, and a sweep queues it again.
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


def run_name(model: Mapping[str, Any]) -> str:
    """Return the default name of a run: backbone and conv builder of its hyper-parameters."""
    return f"{backbone_name(model)}-{_class_name(model['conv'])}"


def backbone_name(model: Mapping[str, Any]) -> str:
    """Return class and options of the backbone, like ``ResNetCifar-56-projection``."""
    options = (model["backbone"].get("init_args") or {}).values()
    return "-".join(
        [_class_name(model["backbone"]), *(str(value) for value in options if isinstance(value, (int, str)))]
    )


def _class_name(description: dict[str, Any]) -> str:
    return str(description["class_path"]).rpartition(".")[2]
