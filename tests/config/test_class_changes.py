"""A class that replaces another one has none of its options."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from acnet_pl.config.choices import choices
from acnet_pl.config.class_changes import settled
from acnet_pl.modules import Schedule
from acnet_pl.reproduce import TARGETS
from acnet_pl.reproduce.grid import load_grid
from acnet_pl.reproduce.settings import SettingsParser, fit_arguments

RECIPE = """
model:
  backbone: {class_path: acnet_pl.backbones.ResNetCifar, init_args: {depth: 8}}
  optimizer: {init_args: {lr: 0.2}}
data: {class_path: acnet_pl.data.CIFARDataModule, init_args: {pad: 3, batch_size: 32}}
"""


@pytest.fixture(scope="module")
def parser() -> SettingsParser:
    return SettingsParser()


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return str(tmp_path / "recipe.yaml")


def test_another_class_starts_from_its_own_defaults(recipe: str, parser: SettingsParser) -> None:
    args = ["fit", "--config", recipe, "--data", "DigitsDataModule", "--model.optimizer", "AdamW"]
    config = parser(args)
    assert config["data"]["init_args"]["pad"] == 2
    assert config["data"]["init_args"]["batch_size"] == 64
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-3
    assert config["model"]["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert config["model"]["backbone"]["init_args"]["depth"] == 8
    notes = settled(args)[1]
    assert notes[0] == "--data DigitsDataModule replaces CIFARDataModule; not kept: pad=3, batch_size=32"
    assert notes[1].startswith("--model.optimizer AdamW replaces SGD; not kept: lr=0.2, momentum=0.9")


def test_the_same_class_keeps_what_was_said(recipe: str, parser: SettingsParser) -> None:
    args = ["fit", "--config", recipe, "--data", "CIFARDataModule", "--data.pad", "1", "--model.optimizer", "SGD"]
    config = parser(args)
    assert (config["data"]["init_args"]["pad"], config["data"]["init_args"]["batch_size"]) == (1, 32)
    assert config["model"]["optimizer"]["init_args"] == {
        **config["model"]["optimizer"]["init_args"],
        **{"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4},
    }
    assert settled(args) == (args, [])


def test_a_later_file_replaces_a_class_too(recipe: str, tmp_path: Path, parser: SettingsParser) -> None:
    (tmp_path / "other.yaml").write_text("data: {class_path: acnet_pl.data.DigitsDataModule}\n")
    args = ["fit", "--config", recipe, "--config", str(tmp_path / "other.yaml")]
    assert parser(args)["data"]["init_args"]["batch_size"] == 64


def test_no_grid_depends_on_options_of_another_class() -> None:
    for name in TARGETS:
        grid = load_grid(name)
        for run in (run for recipe in grid.recipes for run in grid.runs(recipe, (0,))):
            assert settled(fit_arguments(run)) == (fit_arguments(run), [])


@pytest.mark.parametrize("spelling", ["ReduceLROnPlateau", "pytorch_lightning.cli.ReduceLROnPlateau"])
def test_the_plateau_schedule_in_both_spellings(spelling: str, tmp_path: Path, parser: SettingsParser) -> None:
    file = tmp_path / "plateau.yaml"
    file.write_text(f"model: {{schedule: {{class_path: {spelling}, init_args: {{monitor: val/top1, mode: max}}}}}}\n")
    expected = {"monitor": "val/top1", "mode": "max", "patience": 10}
    typed = ["--model.schedule", spelling, "--model.schedule.monitor", "val/top1", "--model.schedule.mode", "max"]
    for args in (["--config", str(file)], typed):
        schedule: dict[str, Any] = parser(["fit", *args])["model"]["schedule"]
        assert schedule["class_path"] == "pytorch_lightning.cli.ReduceLROnPlateau"
        assert expected.items() <= schedule["init_args"].items()


NEEDED = {
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
    "ExponentialLR": {"gamma": 0.5},
    "MultiStepLR": {"milestones": [1, 2]},
    "OneCycleLR": {"max_lr": 0.2, "total_steps": 5},
    "ReduceLROnPlateau": {"monitor": "val/loss"},
    "StaircaseSchedule": {"milestones": [1, 2]},
    "StepLR": {"step_size": 1},
}


@pytest.mark.parametrize("name", choices("model.schedule"))
def test_every_schedule_that_is_offered_works_from_yaml(name: str, tmp_path: Path, parser: SettingsParser) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(yaml.safe_dump({"model": {"schedule": {"class_path": name, "init_args": NEEDED.get(name, {})}}}))
    description = parser(["fit", "--config", str(file)])["model"]["schedule"]
    module, _, own = description["class_path"].rpartition(".")
    make = getattr(import_module(module), own)
    if issubclass(make, Schedule):
        assert 0 <= make(**description["init_args"]).factor(3, 2, 4) <= 1
        return
    network = torch.nn.Linear(1, 1)
    scheduler = make(torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), **description["init_args"])
    scheduler.optimizer.step()
    scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert scheduler.optimizer.param_groups[0]["lr"] >= 0
