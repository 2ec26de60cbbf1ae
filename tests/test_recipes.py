"""Every recipe under experiments/ is parsed, instantiated and trained for one step."""

from pathlib import Path

import pytest
import yaml

from acnet_pl.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
CIFAR = sorted((EXPERIMENTS / "cifar10").glob("*.yaml"))
CONVS = sorted((EXPERIMENTS / "conv").glob("*.yaml"))


# What the fused network computes is tested for each backbone and each block, and fusing takes longer than a step.
NOT_FUSED = [word for name in ("equivalence", "rotation", "fuse") for word in (f"--{name}.enabled", "false")]


def fit(tmp_path, *configs, options=()):
    arguments = [word for config in configs for word in ("--config", str(config))]
    limits = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    return main(
        ["fit", *arguments, *options, *limits, "--trainer.enable_progress_bar", "false", "--runs_dir", str(tmp_path)]
    )


def cifar(root):
    return ["--data.root", str(root), "--data.verify", "false", "--data.batch_size", "4", "--data.eval_batch_size", "4"]


def identity(path):
    return path.relative_to(EXPERIMENTS).as_posix()


@pytest.mark.parametrize("recipe", CIFAR, ids=identity)
def test_a_cifar_recipe_trains_plain_or_as_acnet(recipe, tmp_path, cifar10_root):
    conv, options = "acb", [*cifar(cifar10_root), *NOT_FUSED]
    if "staircase" in recipe.stem:  # its network is in a recipe without; here a small one follows its schedule
        conv, options = "plain", [*options, "--model.backbone", "CifarQuick"]
    assert fit(tmp_path, recipe, EXPERIMENTS / f"conv/{conv}.yaml", options=options) == 0


@pytest.mark.parametrize("conv", CONVS, ids=identity)
def test_a_conv_recipe_lays_over_a_network(conv, tmp_path, cifar10_root):
    options = [*cifar(cifar10_root), *NOT_FUSED]
    assert fit(tmp_path, EXPERIMENTS / "cifar10/cifar_quick.yaml", conv, options=options) == 0


def test_cifar100_lays_over_a_recipe(tmp_path, cifar100_root):
    recipe = EXPERIMENTS / "cifar10/cifar_quick.yaml"
    assert fit(tmp_path, recipe, EXPERIMENTS / "data/cifar100.yaml", options=cifar(cifar100_root)) == 0


@pytest.mark.parametrize("recipe", sorted((EXPERIMENTS / "photos").glob("*.yaml")), ids=identity)
def test_a_recipe_for_photos_trains(recipe, tmp_path, cifar10_folders):
    options = ["--data.root", str(cifar10_folders / "train"), "--data.num_workers", "0", "--data.image_size", "32"]
    assert fit(tmp_path, recipe, options=[*options, "--data.batch_size", "4", *NOT_FUSED]) == 0


def test_the_quickstart_trains(tmp_path):
    assert fit(tmp_path, EXPERIMENTS / "quickstart.yaml") == 0


@pytest.mark.parametrize("recipe", CIFAR, ids=identity)
def test_a_recipe_says_its_command_and_what_to_expect(recipe):
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config experiments/cifar10/{recipe.name}" in line for line in header)
    assert any("has" in line or "reach" in line for line in header)


@pytest.mark.parametrize("recipe", CIFAR, ids=identity)
def test_a_recipe_holds_only_what_differs_from_the_defaults(recipe):
    import acnet_pl

    defaults = yaml.safe_load((Path(acnet_pl.__file__).parent / "defaults.yaml").read_text())
    repeated = list(_repeated(yaml.safe_load(recipe.read_text()), defaults))
    assert repeated == []


def _repeated(values, defaults, path=""):
    for key, value in values.items():
        if isinstance(defaults, dict) and key in defaults:
            if isinstance(value, dict):
                yield from _repeated(value, defaults[key], f"{path}{key}.")
            elif value == defaults[key] and key not in ("class_path", "backbone"):  # which names what it is for
                yield f"{path}{key}: {value}"
