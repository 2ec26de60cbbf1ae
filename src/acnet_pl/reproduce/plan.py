"""Plan the requested runs: settings, cost, and progress on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from acnet_pl.analysis import TrainingCost, training_cost
from acnet_pl.callbacks import LateFuse
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import run_order
from acnet_pl.config.names import did_you_mean, nearest
from acnet_pl.data.errors import DataError
from acnet_pl.modules.architecture import build_network, describe
from acnet_pl.nn import PlainConv
from acnet_pl.reproduce.grid import Grid, Run, Selection, Variant, load_grid
from acnet_pl.reproduce.settings import (
    Settings,
    SettingsParser,
    differences,
    fit_arguments,
    read_settings,
    settings_of,
)
from acnet_pl.reproduce.summary_file import read_summary

if TYPE_CHECKING:
    from acnet_pl.reproduce.records import RecordedRun

__all__ = ["Options", "PlannedRun", "State", "describe_data", "instantiate_data", "make_plan"]

# A run that was stopped goes on where it was.
_UNATTENDED = ("--resume", "auto")

State = Literal["finished", "unfinished", "missing"]


@dataclass(frozen=True)
class Options:
    """Options of ``reproduce``, see its ``--help``."""

    grids: tuple[str, ...]
    models: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: str | None = None
    epochs: int | None = None
    selection: Selection = "last"
    runs_dir: Path = Path("runs")
    fit: tuple[str, ...] = ()
    pruning_seeds: int = 5
    analyses: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """Run with its settings and folder.

    Attributes:
        run: The run.
        grid: A grid that has it.
        recipe: Name of the recipe.
        arguments: "fit" and its options, with name and folder.
        config: The whole configuration.
        departures: Settings that the user changed, as ``{name: (recipe's, user's)}``.
        runs_dir: Where runs/NAME/TIME is.
        record: What a record of another machine has of it, if it is finished there.
    """

    run: Run
    grid: Grid
    recipe: str
    arguments: tuple[str, ...]
    config: Mapping[str, Any]
    departures: Mapping[str, tuple[Any, Any]]
    runs_dir: Path
    settings: Settings = field(repr=False)
    record: RecordedRun | None = None

    @property
    def folders(self) -> list[Path]:
        """Return all folders of runs of this name, oldest first."""
        parent = self.runs_dir / self.run.name
        return sorted((path.parent for path in parent.glob("*/config.yaml")), key=run_order)

    def folder(self) -> Path | None:
        """Return the newest folder with these settings, preferring finished runs."""
        own = [folder for folder in self.folders if self._is_own(folder)]
        return next(reversed(self.finished_folders() or own), None)

    def finished_folders(self) -> list[Path]:
        """Return the folders of finished trainings with these settings, oldest first; they should be one."""
        return [folder for folder in self.folders if self._is_own(folder) and read_summary(folder)]

    def state(self) -> State:
        """Return the progress of the run."""
        folder = self.folder()
        if self.record:
            return "finished"
        return "missing" if folder is None else "finished" if read_summary(folder) else "unfinished"

    def others(self) -> dict[Path, Mapping[str, tuple[Any, Any]]]:
        """Return unused folders of this name with other settings, and the differences."""
        return {
            folder: differences(found, self.settings)
            for folder in self.folders
            if (found := read_settings(folder)) is not None and differences(found, self.settings)
        }

    @property
    def epochs(self) -> int:
        """Return the number of epochs."""
        return int(self.config["trainer"]["max_epochs"] or 0)

    @property
    def validates_on_test_images(self) -> bool:
        """Return True if no images are held out, so that validation and test images are the same."""
        return (self.config["data"].get("init_args") or {}).get("val_size") == 0

    @cached_property
    def cost(self) -> TrainingCost:
        """Return the cost of a training step per image, in the first epoch."""
        return self._cost(self.config["model"]["conv"])

    @property
    def training_macs(self) -> int | None:
        """Return the multiply-accumulates of the whole training; a backward pass counts as two forward passes.

        From the epoch on at which LateFuse fuses the blocks, those of the plain network count. None where the number of
        training images is unknown.
        """
        data = self.config["data"]
        if data["class_path"].rpartition(".")[2] != self.grid.data.class_name:
            return None
        images = self.grid.data.train_images - int(data["init_args"].get("val_size") or 0)
        fused = self.epochs - self._first_fused_epoch()
        after = self._cost(describe(PlainConv())).macs if fused else 0
        return 3 * images * ((self.epochs - fused) * self.cost.macs + fused * after)

    def _cost(self, conv: Mapping[str, Any]) -> TrainingCost:
        data = instantiate_data(self.config)
        shape = getattr(data, "image_shape", self.grid.data.image_shape)
        classes = getattr(data, "num_classes", self.grid.data.num_classes)
        network = json.dumps([_full(self.config["model"]["backbone"]), _full(conv), classes], sort_keys=True)
        return _cost_of(network, tuple(shape))

    def _first_fused_epoch(self) -> int:
        options = [part["LateFuse"] for part in self.settings.get("trainer.callbacks") or () if "LateFuse" in part]
        return min([self.epochs, *(LateFuse(**option).first_epoch(self.epochs) for option in options)])

    def _is_own(self, folder: Path) -> bool:
        found = read_settings(folder)
        return found is not None and not differences(found, self.settings)


def make_plan(options: Options, parser: SettingsParser | None = None) -> dict[str, tuple[Grid, list[PlannedRun]]]:
    """Return the runs of each grid; a run of several grids has one name and folder.

    Args:
        options: The user's options.
        parser: To parse with; None is a new one.

    Returns:
        Per grid, its definition with the models and variants that were asked for, and its runs.

    Raises:
        ValueError: There is no such model, variant or recipe, or an option is one that the grid decides.
    """
    parser = parser or SettingsParser()
    plan: dict[str, tuple[Grid, list[PlannedRun]]] = {}
    grids = [load_grid(name) for name in options.grids]
    _check_names("models", options.models, [model.key for grid in grids for model in grid.models], options.grids)
    _check_names(
        "variants", options.variants, [variant.key for grid in grids for variant in grid.variants], options.grids
    )
    for name, whole in zip(options.grids, grids, strict=True):
        grid = _chosen(whole, options)
        if not (grid.models and grid.variants):
            continue
        recipe = options.recipe or next(iter(grid.recipes))
        runs = []
        settings = _OncePerSeed(parser)
        for run in grid.runs(recipe, options.seeds, options.selection):
            recipe_config = settings(run)
            shortened = options.epochs and _shortened(recipe_config, settings(run, options.fit), options.epochs)
            extra = [*options.fit, *(shortened or ())]
            arguments, config = fit_arguments(run, extra), settings(run, extra)
            departures = differences(settings_of(recipe_config), settings_of(config))
            if options.selection == "last" and config["checkpoint"]["monitor"]:
                raise ValueError(
                    f"`--checkpoint.monitor` (={config['checkpoint']['monitor']}) selects an epoch, which is another "
                    "protocol than the article's; use --select best, which also holds images out to select by"
                )
            arguments += ["--name", run.name, "--runs_dir", str(options.runs_dir), *_UNATTENDED]
            runs.append(
                PlannedRun(
                    run, grid, recipe, tuple(arguments), config, departures, options.runs_dir, settings_of(config)
                )
            )
        plan[name] = grid, runs
    if not plan:
        asked = ", ".join((*options.models, *options.variants))
        raise ValueError(f"none of {', '.join(options.grids)} has both the models and the variants asked for: {asked}")
    return plan


@cache
def _cost_of(network: str, shape: tuple[int, int, int]) -> TrainingCost:
    """Return the cost of the network that a JSON text describes; runs that differ by their seed alone share it."""
    with torch.device("meta"):
        built = build_network(*json.loads(network))
    return training_cost(built, shape)


def instantiate_data(config: Mapping[str, Any]) -> Any:
    """Build the data module of a configuration; None if it needs files that are missing."""
    module, _, name = config["data"]["class_path"].rpartition(".")
    try:
        return getattr(import_module(module), name)(**config["data"].get("init_args", {}))
    except (OSError, DataError):
        return None


def describe_data(config: Mapping[str, Any]) -> str:
    """Describe in words which copy of the data a configuration names."""
    init_args = config["data"].get("init_args", {})
    parts = [str(init_args.get("dataset") or config["data"]["class_path"].rpartition(".")[2])]
    if "root" in init_args:
        parts.append(f"from {Path(init_args['root']).expanduser().absolute()}")
    if "verify" in init_args:
        parts.append("checksums verified" if init_args["verify"] else "checksums not verified")
    if "val_size" in init_args:
        parts.append(f"{init_args['val_size']} training images held out")
    return ", ".join(parts)


class _OncePerSeed:
    """Parser that parses once for runs that differ by their seed alone: parsing takes a quarter of a second."""

    def __init__(self, parser: SettingsParser) -> None:
        self._parser = parser
        self._parsed: dict[tuple[str, ...], dict[str, Any]] = {}

    def __call__(self, run: Run, extra: Sequence[str] = ()) -> dict[str, Any]:
        key = tuple(fit_arguments(replace(run, seed=0), extra))
        if key not in self._parsed:
            self._parsed[key] = self._parser(key)
        config = deepcopy(self._parsed[key])
        config["seed_everything"] = config["data"]["init_args"]["seed"] = run.seed
        return config


def _check_names(kind: str, asked: Sequence[str], known: Sequence[str], grids: Sequence[str]) -> None:
    wrong = set(asked) - set(known)
    if wrong:
        having = f"{', '.join(grids)} {'have' if len(grids) > 1 else 'has'}"
        near = did_you_mean(nearest(min(wrong), known))
        raise UsageError(f"--{kind} {' '.join(sorted(wrong))}: {having} {', '.join(dict.fromkeys(known))}{near}")


def _chosen(grid: Grid, options: Options) -> Grid:
    """Return the grid with the requested models and variants; of several grids, each may lack some."""
    models = [model for model in grid.models if model.key in options.models or not options.models]
    variants = [variant for variant in grid.variants if variant.key in options.variants or not options.variants]
    analyses = tuple(dict.fromkeys((*grid.analyses, *options.analyses)))
    return replace(grid, models=tuple(models), variants=_baseline_first(variants), analyses=analyses)


def _shortened(recipe: Mapping[str, Any], config: Mapping[str, Any], epochs: int) -> list[str]:
    """Return options for fewer epochs, with staircase steps and warm-up moved in proportion.

    What the user has set stays: only the recipe's own steps and warm-up are moved.
    """
    factor = epochs / recipe["trainer"]["max_epochs"]
    options = ["--trainer.max_epochs", str(epochs)]
    old, new = (part["model"]["schedule"] or {} for part in (recipe, config))
    if old.get("class_path") != new.get("class_path"):
        return options
    for name in ("milestones", "warmup_epochs"):
        value = new.get("init_args", {}).get(name)
        if value and value == old.get("init_args", {}).get(name):
            moved = [round(factor * v, 3) for v in value] if isinstance(value, list) else round(factor * value, 3)
            options += [f"--model.schedule.init_args.{name}", json.dumps(moved)]
    return options


def _baseline_first(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    return tuple(sorted(variants, key=lambda variant: not variant.is_plain))


def _full(part: Any) -> dict[str, Any]:
    return {"class_path": part["class_path"], "init_args": part.get("init_args") or {}}
