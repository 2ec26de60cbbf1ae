"""Parser of `fit`, `validate`, `test` and `predict`: Lightning's options and acnet_pl's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import set_parsing_settings
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from acnet_pl.config.choices import CALLBACK, SLOTS, choices
from acnet_pl.config.messages import ReadableErrors
from acnet_pl.config.own_options import CALLBACKS, RunSettings, WandbOptions
from acnet_pl.config.trusted import named_elsewhere
from acnet_pl.config.written import NO_TEXT, without_unwritable

__all__ = ["RunOptions", "RunParser", "import_named"]

# Lightning has the parser open an address (s3://, data://) where a class is expected: one in a stranger's file too.
set_parsing_settings(config_read_mode_fsspec_enabled=False)


def import_named(args: Sequence[str]) -> None:
    """Import this package's classes, and those of others that a command line names, for the parser.

    Args:
        args: The command and its arguments.
    """
    own = {path for slot in (*SLOTS, CALLBACK) for path in choices(slot).values() if path.startswith("acnet_pl.")}
    for module in {path.rpartition(".")[0] for path in (*own, *named_elsewhere(args))}:
        import_module(module)


class RunParser(ReadableErrors, LightningArgumentParser):
    """Lightning's parser with readable errors, and no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Return a configuration as text that is read back with the same values; arguments are the parser's.

        Raises:
            UsageError: A value cannot be written; the message names the option.
        """
        written = super().dump
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=rf"\s*{NO_TEXT}")
            text: str = written(*args, **kwargs)
            if NO_TEXT not in text:
                return text
            return without_unwritable(text, lambda content: written(self.parse_object(content), *args[1:], **kwargs))


class RunOptions(LightningCLI):
    """Lightning's command line with acnet_pl's options added, for one command.

    Args:
        *args: Arguments of LightningCLI.
        command: The command that is run. Lightning makes the parsers of all four, a third of the time of a short run.
        **kwargs: Arguments of LightningCLI.
    """

    def __init__(self, *args: Any, command: str, **kwargs: Any) -> None:
        skipped = LightningCLI.subcommands()[command]
        self.subcommands = lambda: {command: skipped}  # type: ignore[method-assign]
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and name, Weights & Biases, the callbacks; link the number of classes."""
        parser.add_class_arguments(RunSettings)
        parser.add_class_arguments(WandbOptions, "wandb")
        for name, path in CALLBACKS.items():
            module, _, callback = path.rpartition(".")
            parser.add_lightning_class_args(getattr(import_module(module), callback), name)
        parser.set_defaults(
            {
                "checkpoint.filename": "epoch={epoch}-step={step}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,  # a resumed run writes the same file again
            }
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
