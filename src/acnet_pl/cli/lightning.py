"""fit, validate, test, predict: Lightning's command line with acnet_pl's defaults, links, callbacks and loggers."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from acnet_pl.callbacks import (
    ConvSummary,
    EpochTimer,
    EquivalenceCheck,
    FuseOnFitEnd,
    PredictionWriter,
    ProgressBar,
    RotationRobustness,
)
from acnet_pl.cli.errors import Parser
from acnet_pl.cli.run_folder import make_run_folder
from acnet_pl.cli.summary import write_summary
from acnet_pl.modules import ImageClassifier

__all__ = ["CLI", "WandbOptions", "run"]

DEFAULTS = Path(__file__).parent.parent / "defaults.yaml"


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: "offline" writes to the run's folder, for `wandb sync` later; "online" needs an account. Null is
            WANDB_MODE of the environment, else "offline".
        project: Project of the dashboard.
        group: Runs to be compared; null is data set and backbone, so that a plain net and its ACNet pair up.
        tags: Tags of the run.
    """

    mode: Literal["offline", "online", "disabled"] | None = None
    project: str = "acnet_pl"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


class SaveConfig(SaveConfigCallback):
    """Writes the whole configuration to the run's folder and to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the configuration to Weights & Biases (Lightning has written the file)."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update({"config": self.config.as_dict()}, allow_val_change=True)


class CLI(LightningCLI):
    """Lightning's command line for `ImageClassifier` and any data module."""

    run_folder: Path

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and name, Weights & Biases, the callbacks; link the number of classes."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; default: backbone and conv."
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Where runs/NAME/TIME is made.")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.auto_insert_metric_name": False})
        parser.add_lightning_class_args(EquivalenceCheck, "equivalence")
        parser.add_lightning_class_args(RotationRobustness, "rotation")
        parser.add_lightning_class_args(FuseOnFitEnd, "fuse")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="After fit, validate and test what was folded."
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run's folder and a trainer that keeps everything in it."""
        config = self.config[self.subcommand]
        suffix = "" if self.subcommand == "fit" else f"-{self.subcommand}"
        name = config.name or _run_name(self.model)
        if config.trainer.get("default_root_dir"):
            self.run_folder = Path(config.trainer.default_root_dir).absolute()
        else:
            self.run_folder = make_run_folder(config.runs_dir, name, suffix)
        kwargs["default_root_dir"] = str(self.run_folder)
        if config.trainer.get("logger") is None:
            kwargs["logger"] = self._loggers(name, config.wandb)
        trainer_config = {**self.config_init[self.subcommand].trainer, **kwargs}
        callbacks = [self.config_init[self.subcommand][key] for key in self._parser(self.subcommand).callback_keys]
        if trainer_config.get("enable_progress_bar") is not False:
            callbacks.append(ProgressBar())
        if trainer_config.get("enable_model_summary") is not False:
            callbacks.append(ConvSummary())
        trainer_config["enable_model_summary"] = False
        callbacks.append(EpochTimer())
        if trainer_config.get("logger") is not False:
            callbacks.append(LearningRateMonitor("step"))
        return self._instantiate_trainer(trainer_config, callbacks)

    def after_fit(self) -> None:
        """Validate and test the weights that were folded, then say what came out and where it is."""
        config = self.config[self.subcommand]
        trainer: Trainer = self.trainer
        if trainer.interrupted or config.trainer.fast_dev_run or not config.test_after_fit:
            return
        checkpoint = trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "") if getattr(checkpoint, "monitor", None) else ""
        figures: dict[str, float] = {}
        for loop in (trainer.validate, trainer.test):
            (outcome,) = loop(
                self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False, weights_only=True
            )
            figures.update(outcome)
        if trainer.is_global_zero:
            write_summary(self.run_folder, self.model, trainer, figures)

    def _loggers(self, name: str, options: WandbOptions) -> list[Logger]:
        folder = str(self.run_folder)
        loggers: list[Logger] = [CSVLogger(folder, name="", version="")]
        mode = options.mode or os.environ.get("WANDB_MODE", "offline")
        if mode != "disabled":
            import wandb

            conv = self.model.hparams["conv"]["class_path"].rpartition(".")[2]
            kind = "plain" if conv == "PlainConv" else "acnet"
            loggers.append(
                WandbLogger(
                    name=f"{name}/{self.run_folder.name}",
                    save_dir=folder,
                    project=options.project,
                    offline=mode == "offline",
                    group=options.group or f"{_data_name(self.datamodule)}-{_backbone_name(self.model)}",
                    job_type=kind,
                    tags=[*options.tags, kind, _backbone_name(self.model)],
                    # Quiet, and hands off the terminal that the progress bar draws on.
                    settings=wandb.Settings(silent=True, console="off"),
                )
            )
        return loggers


def run(args: Sequence[str]) -> Path:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` with its options; returns the run's folder."""
    torch.set_float32_matmul_precision("high")
    _keep_advice_quiet()
    configs = {command: {"default_config_files": [str(DEFAULTS)]} for command in CLI.subcommands()}
    cli = CLI(
        ImageClassifier,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        parser_class=Parser,
        parser_kwargs={**configs, "prog": "python -m acnet_pl"},
        auto_configure_optimizers=False,
        args=list(args),
    )
    return cli.run_folder


def _keep_advice_quiet() -> None:
    """Silence what Lightning says about itself; what it says about the run stays."""
    for message in (".*args parameter is intended to run from within Python.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "Tip:" not in record.getMessage())


def _run_name(model: ImageClassifier) -> str:
    conv = model.hparams["conv"]["class_path"].rpartition(".")[2]
    return f"{_backbone_name(model)}-{conv}"


def _backbone_name(model: ImageClassifier) -> str:
    options = model.hparams["backbone"]["init_args"]
    name = model.hparams["backbone"]["class_path"].rpartition(".")[2]
    return "-".join([name, *(str(value) for value in options.values() if isinstance(value, (int, str)))])


def _data_name(data: LightningDataModule | None) -> str:
    return str(data.hparams.get("dataset", type(data).__name__.removesuffix("DataModule"))) if data else "data"
