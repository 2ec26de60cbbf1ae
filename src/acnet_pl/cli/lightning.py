"""fit, validate, test, predict: Lightning's command line with acnet_pl's defaults, links, callbacks and loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from rich.console import Console

from acnet_pl.callbacks import (
    ConfusionMatrix,
    ConvSummary,
    EpochTimer,
    KeepFused,
    LearningRate,
    Preprocessing,
    ProgressBar,
    RunCheckpoint,
)
from acnet_pl.callbacks.sigterm import exit_on_sigterm
from acnet_pl.cli.before_training import (
    check_accelerator,
    check_data,
    check_image_size,
    check_synchronised_norms,
    images_per_step,
    warn_of_selection,
)
from acnet_pl.cli.evaluation import (
    check_classes_of_data,
    evaluation_folder,
    images_of_checkpoint,
    with_mapped_classes,
)
from acnet_pl.cli.loggers import (
    SaveConfig,
    in_run_folder,
    know_run_folder,
    make_loggers,
    require_packages,
    run_name,
    wandb_mode,
    wandb_run_ends,
)
from acnet_pl.cli.plugins import plugins_of
from acnet_pl.cli.preparation import data_lines, prepare_alike, with_preparation_of_checkpoint
from acnet_pl.cli.resume import find_run, way_on
from acnet_pl.cli.summary import metrics_table, no_figures, write_summary
from acnet_pl.cli.torchrun import fresh_store, tell_nodes_apart
from acnet_pl.config.class_changes import settled
from acnet_pl.config.defaults import default_configs, with_config_of_resumed, with_data_of_checkpoint
from acnet_pl.config.program import program
from acnet_pl.config.run_folder import Claim, make_run_folder, write_config
from acnet_pl.config.run_options import RunOptions, RunParser, import_named
from acnet_pl.integrations import enable_installed
from acnet_pl.modules import ImageClassifier
from acnet_pl.modules.untrusted import check_classes
from acnet_pl.quiet import keep_advice_quiet

__all__ = ["CLI", "run"]


class CLI(RunOptions):
    """Lightning's command line for `ImageClassifier` and any data module."""

    run_folder: Path
    claim: Claim | None = None
    images: Mapping[str, Any] = {}  # of the checkpoint

    def before_instantiate_classes(self) -> None:
        """Raise an error if a class is of the wrong kind, or if `test` or `predict` has no checkpoint."""
        if self.subcommand != "fit" and not self.config[self.subcommand].ckpt_path:
            raise ValueError(
                f"{self.subcommand} needs a trained network; give its file with --ckpt_path, for example "
                "runs/NAME/TIME/checkpoints/last.ckpt"
            )
        check_classes(self.config[self.subcommand])
        trainer = self.config[self.subcommand].trainer
        require_packages(trainer.get("logger"))
        check_accelerator(trainer.accelerator, trainer.devices)

    def _parse_ckpt_path(self) -> None:
        """Take the model's options from the checkpoint; raise an error if the user asked for another network.

        Raises:
            ValueError: The checkpoint cannot be read safely, or has another backbone or conv than the configuration.
        """
        if not (path := self.subcommand_config().get("ckpt_path")):
            return
        if Path(path).exists():
            self.images = images_of_checkpoint(path, goes_on=self.config.subcommand == "fit")
        default = self._parser(self.config.subcommand).get_defaults()
        asked = {key: self._description(key) for key in ("backbone", "conv")}
        super()._parse_ckpt_path()
        for key, description in asked.items():
            found = self._description(key)
            if description not in (found, _plain(default.model.get(key))):
                raise ValueError(
                    f"the checkpoint {self.subcommand_config().ckpt_path} holds another network than was asked for: "
                    f"its {key} is {_shown(found)}, --model.{key} says {_shown(description)}; leave --model.{key} out"
                )

    def subcommand_config(self) -> Any:
        """Return the options of the command that runs."""
        return self.config[self.config.subcommand]

    def _description(self, key: str) -> Any:
        return _plain(self.subcommand_config().model.get(key))

    @contextmanager
    def _no_run_unless_it_begins(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self.claim is not None:
                self.claim.abandon()
            raise

    def instantiate_classes(self) -> None:
        """Make data, model and trainer; leave no folder behind if one cannot be made."""
        with self._no_run_unless_it_begins():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run's folder and a trainer that keeps everything in it."""
        config = self.config[self.subcommand]
        check_classes_of_data(self.images, self.datamodule)
        if self.subcommand != "fit":
            prepare_alike(self.images, self.datamodule)
        check_image_size(self.model, self.datamodule)
        name = config.name or run_name(self.model.hparams)
        self._choose_run_folder(config, name)
        kwargs["default_root_dir"] = str(self.run_folder)
        if config.trainer.get("logger") in (None, True):
            wandb = self.config_init[self.subcommand].wandb
            mode = wandb_mode(wandb, self.subcommand)
            kwargs["logger"] = make_loggers(self.run_folder, name, wandb, mode, self.model.hparams, self.datamodule)
        elif config.trainer.logger is not False:
            given = self.config_init[self.subcommand].trainer.logger
            kwargs["logger"] = in_run_folder(self.run_folder, given, config.trainer.logger)
        trainer_config = {**self.config_init[self.subcommand].trainer, **kwargs}
        trainer_config["plugins"] = plugins_of(trainer_config)
        callbacks = [self.config_init[self.subcommand][key] for key in self._parser(self.subcommand).callback_keys]
        callbacks.sort(key=lambda callback: not isinstance(callback, RunCheckpoint))  # it has to be the first
        best = config.checkpoint.monitor is not None or config.checkpoint.save_top_k != 1
        if self.subcommand != "fit" or not best:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
            others = trainer_config.get("callbacks") or []
            others = others if isinstance(others, list) else [others]
            # Lightning adds one of its own where there is none, which RunCheckpoint makes needless.
            trainer_config["enable_checkpointing"] = any(isinstance(other, ModelCheckpoint) for other in others)
        if trainer_config.get("enable_progress_bar") is not False:
            callbacks.append(ProgressBar())
        if trainer_config.get("enable_model_summary") is not False:
            callbacks.append(ConvSummary())
        trainer_config["enable_model_summary"] = False
        callbacks += [EpochTimer(), KeepFused(), Preprocessing()]
        if trainer_config.get("logger") is not False:
            callbacks += [LearningRate(), ConfusionMatrix()]
        return self._instantiate_trainer(trainer_config, callbacks)

    def _choose_run_folder(self, config: Namespace, name: str) -> None:
        """Continue in the folder of an unfinished run, or make one and write the configuration to it."""
        fits, first = self.subcommand == "fit", getattr(rank_zero_only, "rank", 0) == 0
        text = self._parser(self.subcommand).dump(config, skip_none=False, skip_link_targets=False)
        given = Path(root).absolute() if (root := config.trainer.get("default_root_dir")) else None
        if fits and config.resume:
            candidates = [given] if given else (Path(config.runs_dir).absolute() / name).glob("*")
            if found := find_run(config.resume, candidates, text, self.model):
                self.run_folder, self.claim = found.folder, found.claim
                options = self.config_init[self.subcommand]
                options["ckpt_path"] = options.run_checkpoint.resume_from = found.checkpoint and str(found.checkpoint)
                return
        if given is None:
            made = make_run_folder(config.runs_dir, name) if fits else evaluation_folder(config, self.subcommand, name)
        self.run_folder = given or made
        if first:
            self.run_folder.mkdir(parents=True, exist_ok=True)
            write_config(self.run_folder, text)
            self.claim = Claim.of(self.run_folder, is_new=given is None) if fits else None

    def before_fit(self) -> None:
        """Check the data before loggers start, and print the images per step."""
        with self._no_run_unless_it_begins():
            check_synchronised_norms(self.config[self.subcommand].trainer.sync_batchnorm, self.trainer)
            check_data(self.datamodule, self.trainer)
        warn_of_selection(self.datamodule, self.trainer)
        if self.trainer.is_global_zero and (images := images_per_step(self.datamodule, self.trainer)):
            Console(markup=False, emoji=False).print(images, highlight=False)

    def after_validate(self) -> None:
        """Show the figures, or that there are none, and where the files are."""
        if self.trainer.is_global_zero:
            figures = self.trainer.callback_metrics
            found = metrics_table(figures) if figures else no_figures(str(self.subcommand))
            shown = found, f"Files in {self.run_folder}"
            Console(markup=False, emoji=False).print(*shown, sep="\n", soft_wrap=True, highlight=False)

    after_test = after_validate

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if "verbose" in kwargs:
            kwargs["verbose"] = False  # Lightning's table shows 16 digits; `after_validate` shows its own
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as stop:  # Lightning's, which has ended the run in order
            if stop.code != 1 or not self.trainer.interrupted:
                raise
            raise KeyboardInterrupt(way_on(self.run_folder) if subcommand == "fit" else "") from stop

    def after_fit(self) -> None:
        """Validate and test the weights that were fused, then show figures and files."""
        if not self.trainer.interrupted:
            self._evaluate()
            if self.claim is not None:
                self.claim.finish()

    def _evaluate(self) -> None:
        config = self.config[self.subcommand]
        trainer: Trainer = self.trainer
        if config.trainer.fast_dev_run or not config.test_after_fit:
            return
        checkpoint = trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "") if getattr(checkpoint, "monitor", None) else ""
        figures: dict[str, float] = {}
        missing: dict[str, str] = {}
        failure: Exception | None = None
        for name, loop in (("validation", trainer.validate), ("test", trainer.test)):
            if failure is not None:
                missing[name] = "not begun"
                continue
            try:
                outcomes = loop(
                    self.model, datamodule=self.datamodule, ckpt_path=best or None, verbose=False, weights_only=True
                )
            except Exception as error:  # what was trained and fused is written all the same
                failure, missing[name] = error, str(error) or type(error).__name__
                continue
            for outcome in outcomes:
                figures.update(outcome)
            if not outcomes:
                missing[name] = "there were no batches (--trainer.limit_val_batches, --trainer.limit_test_batches)"
        if trainer.is_global_zero:
            write_summary(self.run_folder, self.model, trainer, figures, missing)
        if failure is not None:
            raise failure


def run(args: Sequence[str]) -> Path:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` with its options; returns the run's folder."""
    torch.set_float32_matmul_precision("high")
    tell_nodes_apart()
    keep_advice_quiet()
    enable_installed()
    know_run_folder()
    store = fresh_store()  # lives until this returns
    given = with_config_of_resumed(args)
    args = with_preparation_of_checkpoint(with_mapped_classes(with_data_of_checkpoint(given)))
    import_named(args)
    defaults, lines = default_configs(args), data_lines(given, args)
    args, notes = settled(args)
    for note in (*notes, *lines):
        rank_zero_info(note)
    with exit_on_sigterm(), wandb_run_ends():
        cli = CLI(
            ImageClassifier,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=RunParser,
            parser_kwargs={args[0]: {"default_config_files": defaults}, "prog": program()},
            auto_configure_optimizers=False,
            command=args[0],
            args=args,
        )
    del store
    return cli.run_folder


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _shown(description: Any) -> str:
    if not isinstance(description, dict):
        return str(description)
    options = ", ".join(f"{name}={value!r}" for name, value in description.get("init_args", {}).items())
    return f"{description['class_path'].rpartition('.')[2]}({options})"
