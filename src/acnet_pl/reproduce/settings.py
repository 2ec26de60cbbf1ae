"""Parse the settings of runs, and compare two settings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse import Namespace
from pytorch_lightning import LightningDataModule

from acnet_pl import callbacks
from acnet_pl.config.class_changes import settled
from acnet_pl.config.defaults import default_configs
from acnet_pl.config.files import EXPERIMENTS, run_config
from acnet_pl.config.run_options import RunOptions, RunParser, import_named
from acnet_pl.integrations import enable_installed
from acnet_pl.modules import ImageClassifier
from acnet_pl.reproduce.grid import Run

__all__ = [
    "EXPERIMENTS",
    "IMMATERIAL",
    "FitObjects",
    "Settings",
    "SettingsParser",
    "decisive_callbacks",
    "differences",
    "fit_arguments",
    "read_settings",
]

Settings = Mapping[str, Any]
"""Options by dotted name, of what decides a run's numbers."""

_PARTS = ("seed_everything", "model", "data", "trainer", "checkpoint.monitor", "checkpoint.mode")
IMMATERIAL = {
    *(f"data.init_args.{name}" for name in ("download", "eval_batch_size", "num_workers", "pin_memory")),
    *(f"trainer.{name}" for name in ("logger", "default_root_dir", "log_every_n_steps", "profiler")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "enable_autolog_hparams")),
    *(f"trainer.{name}" for name in ("benchmark", "model_registry")),
    "model.compile",
    "model.num_classes",
}
"""Options of these parts that concern only display, the machine or speed."""

_ABSENT = object()
# Callbacks that only watch and write; any other may change what is trained.
_WATCHING = {
    *(set(callbacks.__all__) - {"LateFuse"}),
    *("DeviceStatsMonitor", "LearningRateMonitor", "ModelSummary", "RichModelSummary"),
    *("ModelCheckpoint", "OnExceptionCheckpoint", "RichProgressBar", "TQDMProgressBar"),
}


def fit_arguments(run: Run, extra: Sequence[str] = ()) -> list[str]:
    """Return the arguments of ``fit`` for a run: the recipe, then the user's options, then seeds.

    Args:
        run: The run.
        extra: The user's options.
    """
    arguments = ["fit"]
    for config in run.configs:
        own, yours = EXPERIMENTS / config, Path("experiments") / config  # the package's, or your grid's
        arguments += ["--config", _shown(yours if yours.is_file() and not own.is_file() else own)]
    return [*arguments, *run.options, *extra, "--seed_everything", str(run.seed), "--data.seed", str(run.seed)]


@dataclass(frozen=True)
class FitObjects:
    """Objects that ``fit`` builds from its arguments before training.

    Attributes:
        model: With the initial weights of the seed.
        data: Nothing is loaded yet.
        equivalence: Callback that compares the fused network.
        rotation: Whether rotated images are tested.
        fuse: Where the fused network is written.
        config: The whole configuration as YAML, for the run's folder.
    """

    model: ImageClassifier
    data: LightningDataModule
    equivalence: callbacks.EquivalenceCheck
    rotation: callbacks.RotationRobustness
    fuse: callbacks.FuseOnFitEnd
    config: str


class SettingsParser:
    """Parser of ``fit``'s arguments that runs nothing."""

    # Making a parser takes longer than parsing with it.
    _parsers: ClassVar[dict[tuple[str, ...], _ParseOnly]] = {}

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the whole configuration, nested.

        Args:
            arguments: "fit" and its options.
        """
        parsed = self._parser(arguments).parse(settled(arguments)[0][1:])
        plain: dict[str, Any] = json.loads(json.dumps(parsed.as_dict(), default=str))
        return plain

    def objects(self, arguments: Sequence[str], seed: int) -> FitObjects:
        """Build what ``fit`` builds, with the same random numbers.

        Args:
            arguments: "fit" and its options.
            seed: Seed of the weights, as ``--seed_everything``.
        """
        torch.manual_seed(seed)
        return self._parser(arguments).build(settled(arguments)[0][1:])

    def _parser(self, arguments: Sequence[str]) -> _ParseOnly:
        enable_installed()
        import_named(arguments)
        defaults = tuple(default_configs(arguments))
        if defaults not in self._parsers:
            warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
            self._parsers[defaults] = _ParseOnly(
                ImageClassifier,
                LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=None,
                parser_class=RunParser,
                parser_kwargs={"prog": "acnet_pl", "fit": {"default_config_files": [*defaults]}},
                auto_configure_optimizers=False,
                command="fit",
                args=settled(arguments)[0],
            )
        return self._parsers[defaults]


class _ParseOnly(RunOptions):
    def parse(self, arguments: Sequence[str]) -> Namespace:
        return self._parser("fit").parse_args(list(arguments))

    def build(self, arguments: Sequence[str]) -> FitObjects:
        parsed = self.parse(arguments)
        text = self._parser("fit").dump(parsed, skip_none=False, skip_link_targets=False)
        made = self._parser("fit").instantiate_classes(parsed)
        return FitObjects(made.model, made.data, made.equivalence, made.rotation, made.fuse, text)

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that decide a run's numbers, by dotted name."""
    flat = dict(_flatten(config))
    root = flat.get("data.init_args.root")
    if isinstance(root, str) and "://" not in root:
        flat["data.init_args.root"] = str(Path(root).expanduser().absolute())
    flat["trainer.callbacks"] = decisive_callbacks(config)
    if str(flat.get("model.conv.class_path")).rpartition(".")[2] in ("ACBConv", "PlainConv"):
        flat.setdefault("model.conv.init_args.draw", "fan_out")  # what runs had before there was a choice
    return {
        name: value
        for name, value in flat.items()
        if name not in IMMATERIAL and any(name == part or name.startswith(f"{part}.") for part in _PARTS)
    }


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Read the settings of a run's folder; None if its config.yaml is missing or damaged."""
    config = run_config(folder)
    return settings_of(json.loads(json.dumps(config, default=str))) if config else None


def differences(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Return options with different values, as ``{name: (old, new)}``.

    An option that one side lacks did not exist in the version that wrote it, and counts as alike; but what classes
    are chosen is always compared.
    """
    changed = {name: (old[name], new[name]) for name in old if name in new and not _alike(old[name], new[name])}
    for name in old.keys() | new.keys():  # none on one side, a class on the other
        a, b = (side.get(name, side.get(f"{name}.class_path", _ABSENT)) for side in (old, new))
        if (a is None) != (b is None) and _ABSENT not in (a, b):
            changed[name] = a, b
    return changed


def decisive_callbacks(config: Mapping[str, Any]) -> list[Any]:
    """List those of the trainer's callbacks that may change what is trained, each as {name: its options}."""
    found = (config.get("trainer") or {}).get("callbacks") or []
    described = [part for part in (found if isinstance(found, list) else [found]) if isinstance(part, Mapping)]
    named = [(str(part.get("class_path")).rpartition(".")[2], part.get("init_args") or {}) for part in described]
    named = [("LateFuse" if name == "LateFold" else name, options) for name, options in named]  # its former name
    # None means that no value was chosen; a configuration of an earlier version may lack the option.
    return [
        {name: {key: value for key, value in options.items() if value is not None}}
        for name, options in named
        if name not in _WATCHING
    ]


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, str) and "." in a and "." in b and "/" not in a:
        # A class may be named by its package or by its module.
        return a.split(".")[0] == b.split(".")[0] and a.rpartition(".")[2] == b.rpartition(".")[2]
    return bool(a == b)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(path: Path) -> str:
    """Return the path of a file, relative to the working folder where it is inside."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
