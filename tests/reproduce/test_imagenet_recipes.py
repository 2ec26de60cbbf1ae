"""The recipes of experiments/imagenet train on any tree of class folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acnet_pl.cli import main
from acnet_pl.reproduce.settings import EXPERIMENTS, SettingsParser

RECIPES = sorted(path.stem for path in (EXPERIMENTS / "imagenet").glob("*.yaml"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(2):
            folder = tmp_path / "data" / split / f"n0{number}"
            folder.mkdir(parents=True)
            for index in range(2):
                Image.fromarray(rng.integers(0, 255, (90, 80, 3)).astype(np.uint8)).save(folder / f"{index}.JPEG")
    return tmp_path / "data"


def test_every_net_of_the_article_has_both_schedules() -> None:
    nets = {"alexnet", "resnet18", "resnet34", "resnet50", "densenet121"}
    assert set(RECIPES) == nets | {f"{net}_staircase" for net in nets}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_parsed_and_has_a_batch_of_256(recipe: str, parser: SettingsParser) -> None:
    config = parser(["fit", "--config", str(EXPERIMENTS / "imagenet" / f"{recipe}.yaml")])
    assert config["data"]["init_args"]["batch_size"] == 256
    assert config["trainer"]["max_epochs"] == (150 if recipe.endswith("_staircase") else 100)


# Two steps are too few for the batch statistics of DenseNet-121, and AlexNet is large: the smallest stands for all.
def test_a_recipe_trains_and_fuses_on_a_tree_made_on_the_spot(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    configs = ["imagenet/resnet18_staircase.yaml", "conv/acb_horizontal.yaml", "ablations/article_block.yaml"]
    command = ["fit", *(word for config in configs for word in ("--config", str(EXPERIMENTS / config)))]
    command += ["--data.root", str(root), "--data.batch_size", "2", "--data.image_size", "48", "--data.resize", "56"]
    command += ["--data.num_workers", "0", "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path / "runs")]
    command += [
        "--model.optimizer.init_args.lr",
        "0.001",
        "--model.schedule",
        "CosineSchedule",
        "--trainer.log_every_n_steps",
        "1",
    ]
    assert main([*command, "--trainer.enable_progress_bar", "false"]) == 0
    (summary,) = (tmp_path / "runs").rglob("summary.json")
    content = json.loads(summary.read_text())
    assert content["equivalence"]["max_rel_difference"] < 1e-4
    assert content["rotation"]["samples"] == 4
    assert content["conv"]["init_args"]["vertical"] is False
