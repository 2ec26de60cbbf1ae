from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from acnet_pl.data import CIFARDataModule, DigitsDataModule

RECIPE = "data:\n  class_path: acnet_pl.data.CIFARDataModule\n  init_args: {batch_size: 32}\n"


def parsed(*options: str) -> Any:
    """What `fit --print_config` says of the data, in a process of its own: nothing is imported that a user has not."""
    command = [sys.executable, "-m", "acnet_pl", "fit", *options, "--print_config"]
    return yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["data"]


def own_defaults(module: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(module).parameters.items()}


@pytest.mark.parametrize("way", ["short name", "equals sign", "recipe", "recipe with an option"])
def test_another_data_module_has_its_own_defaults(way: str, tmp_path: Path) -> None:
    """Padding, flipping and batch size of the digits, the default, are not left behind."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    options = {
        "short name": ["--data", "CIFARDataModule", "--data.batch_size", "32"],
        "equals sign": ["--data=acnet_pl.data.CIFARDataModule", "--data.batch_size=32"],
        "recipe": ["--config", str(tmp_path / "recipe.yaml")],
        "recipe with an option": [f"--config={tmp_path / 'recipe.yaml'}", "--data.dataset", "cifar10"],
    }[way]
    data = parsed(*options)
    assert data["class_path"] == "acnet_pl.data.CIFARDataModule"
    assert data["init_args"] == {**own_defaults(CIFARDataModule), "batch_size": 32}


def test_the_digits_are_there_where_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("trainer:\n  max_epochs: 3\n")
    data = parsed("--config", str(tmp_path / "other.yaml"), "--data.image_size", "16")
    assert data["class_path"] == "acnet_pl.data.DigitsDataModule"
    assert data["init_args"] == {**own_defaults(DigitsDataModule), "image_size": 16}
