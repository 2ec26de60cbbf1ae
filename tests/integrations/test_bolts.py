"""lightning-bolts with acnet_pl, each case in a process of its own: what is imported and patched stays there."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.datasets import CIFAR10
from torchvision.transforms.functional import to_tensor

from acnet_pl import ACBlock, fused_info, load_fused

EPOCHS, WARMUP, START_LR, LR, LAST_LR = 6, 3, 0.005, 0.02, 0.001

# `python -m acnet_pl ARGUMENTS`, where torchvision takes the small files below the first argument for the release.
RUN_ON_SMALL_FILES = """
import hashlib, pathlib, runpy, sys
from torchvision.datasets import CIFAR10

root = pathlib.Path(sys.argv.pop(1), CIFAR10.base_folder)
md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in root.iterdir()}
CIFAR10.train_list = [[name, md5[name]] for name, _ in CIFAR10.train_list]
CIFAR10.test_list = [[name, md5[name]] for name, _ in CIFAR10.test_list]
CIFAR10.meta = {**CIFAR10.meta, "md5": md5[CIFAR10.meta["filename"]]}
runpy.run_module("acnet_pl", run_name="__main__", alter_sys=True)
"""

# For the process, lightning-bolts is not installed, and nobody has looked for it yet.
HIDE_BOLTS = """
import sys
from importlib.machinery import PathFinder

import acnet_pl.integrations

assert "pl_bolts" not in sys.modules
if bolts := sys.modules.pop("acnet_pl.integrations.bolts", None):
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, bolts.BoltsFinder)]
    del acnet_pl.integrations.bolts

class WithoutBolts(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "pl_bolts" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutBolts
"""


@pytest.fixture(autouse=True)
def bolts_is_installed() -> None:
    if find_spec("pl_bolts") is None:
        pytest.fail("lightning-bolts is missing: pip install --no-deps lightning-bolts==0.7.0, as `make test` does")


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter; every warning in it is an error."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def learning_rate(epoch: int) -> float:
    """Linear from START_LR to LR over the first WARMUP epochs, then half a cosine to LAST_LR."""
    if epoch < WARMUP:
        return START_LR + (LR - START_LR) * epoch / (WARMUP - 1)
    return LAST_LR + (LR - LAST_LR) * (1 + math.cos(math.pi * (epoch - WARMUP) / (EPOCHS - WARMUP))) / 2


@pytest.fixture
def config(tmp_path: Path, cifar10_root: Path) -> Path:
    """A configuration with a data module, a schedule and a callback of lightning-bolts."""
    schedule = {"warmup_epochs": WARMUP, "max_epochs": EPOCHS, "warmup_start_lr": START_LR, "eta_min": LAST_LR}
    data = {"data_dir": str(cifar10_root), "batch_size": 20, "normalize": True, "pin_memory": False}
    content = {
        "name": "with-bolts",
        "runs_dir": str(tmp_path / "runs"),
        "wandb": {"mode": "disabled"},
        "model": {
            "conv": {"class_path": "ACBConv", "init_args": {"gamma_init": 0.333}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": LR}},
            "schedule": {
                "class_path": "pl_bolts.optimizers.lr_scheduler.LinearWarmupCosineAnnealingLR",
                "init_args": schedule,
            },
        },
        "data": {"class_path": "pl_bolts.datamodules.CIFAR10DataModule", "init_args": data},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": EPOCHS,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks+": [{"class_path": "pl_bolts.callbacks.PrintTableMetricsCallback"}],
        },
    }
    path = tmp_path / "bolts.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_configuration_trains_with_data_schedule_and_callback_of_bolts(
    config: Path,
    tmp_path: Path,
    cifar10_root: Path,
    publish_md5: Callable[[Path, int], None],
    process: Callable[..., Any],
) -> None:
    command = ["-c", RUN_ON_SMALL_FILES, cifar10_root, "fit", "--config", config]
    done = process(["-W", "default", *command], tmp_path, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "with-bolts").iterdir()
    summary = json.loads((run / "summary.json").read_text())

    # It has learned: 10 classes, one of them by chance; 160 images to train on, 40 to validate, 40 to test.
    assert summary["metrics"]["test/top1"] > 0.5
    assert summary["equivalence"]["samples"] == 40
    assert summary["equivalence"]["max_rel_difference"] < 1e-5

    # The fused file is the trained network, from plain convolutions.
    publish_md5(cifar10_root, 10)
    fused = load_fused(run / "fused.safetensors")
    assert not any(isinstance(module, ACBlock) for module in fused.modules())
    assert fused_info(run / "fused.safetensors")["num_classes"] == 10
    test = CIFAR10(cifar10_root, train=False)
    mean, std = (torch.tensor(x).view(3, 1, 1) / 255 for x in ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)))
    with torch.no_grad():
        predicted = fused(torch.stack([(to_tensor(image) - mean) / std for image, _ in test])).argmax(1)
    accuracy = (predicted == torch.tensor(test.targets)).float().mean().item()
    assert accuracy == pytest.approx(summary["metrics"]["test/top1"])
    assert accuracy == pytest.approx(summary["rotation"]["original/top1"])

    # The learning rate followed the schedule.
    with (run / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    rates = {int(row["step"]): row["lr"] for row in rows if "lr" in row}
    assert rates == pytest.approx({step: learning_rate(step // 8) for step in range(8 * EPOCHS)})

    # The callback printed its table after each epoch, the last time with all of them; what it warns of is to be seen.
    printed = [line.split("│") for line in done.stderr.splitlines() if line.count("│") > 5]
    headings = [index for index, cells in enumerate(printed) if "val/top1" in cells]
    assert [later - earlier for earlier, later in pairwise([*headings, len(printed)])] == [2, 3, 4, 5, 6, 7]
    column = printed[headings[-1]].index("val/top1")
    logged = [row["val/top1"] for row in rows if "val/top1" in row][:EPOCHS]
    assert [float(cells[column]) for cells in printed[-EPOCHS:]] == pytest.approx(logged)
    assert "PrintTableMetricsCallback is currently marked under review" in done.stderr
    assert "generate_power_seq" not in done.stderr


def test_pl_bolts_is_repaired_when_it_is_imported_and_not_before() -> None:
    done = python("""
import importlib.util, sys, warnings
import acnet_pl.integrations.bolts as bolts
from acnet_pl.integrations import enable_installed

old = "pytorch_lightning.utilities.apply_func"
enable_installed()
enable_installed()
assert sum(isinstance(finder, bolts.BoltsFinder) for finder in sys.meta_path) == 1
assert "pl_bolts" not in sys.modules and old not in sys.modules and "torch" not in sys.modules
assert importlib.util.find_spec("pl_bolts").name == "pl_bolts"
assert importlib.util.find_spec("pl_bolts_of_another_kind") is None

import pl_bolts, lightning_utilities.core.apply_func, pytorch_lightning
assert sys.modules[old] is lightning_utilities.core.apply_func
assert pl_bolts.__file__ == importlib.util.find_spec("pl_bolts").origin
importlib.reload(pl_bolts)

class Loader:
    def exec_module(self, module):
        warnings.warn("of some use", DeprecationWarning)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    bolts._BoltsLoader(Loader()).exec_module(pl_bolts)
assert [str(warning.message) for warning in caught] == ["of some use"], caught
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_module_that_lightning_has_is_not_shadowed(tmp_path: Path, process: Callable[..., Any]) -> None:
    (tmp_path / "apply_func.py").write_text("from lightning_utilities.core.apply_func import apply_to_collection\n")
    script = """
import sys
import pytorch_lightning.utilities
assert "pl_bolts" not in sys.modules
pytorch_lightning.utilities.__path__.append(sys.argv[1])
import acnet_pl.integrations.bolts
import pl_bolts
print(sys.modules["pytorch_lightning.utilities.apply_func"].__file__)
"""
    done = process(["-W", "error", "-c", script, tmp_path], tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "apply_func.py")), done.stderr


def test_without_bolts_all_else_works(config: Path, tmp_path: Path, process: Callable[..., Any]) -> None:
    script = (
        HIDE_BOLTS
        + """
from acnet_pl.cli import main

try:
    import acnet_pl.integrations.bolts
except ModuleNotFoundError as error:
    print("message:", error.name, error)
assert main(["--help"]) == 0
assert main(["fit", "--help"]) == 0
assert main(["fit", "--model.conv", "PlainConv", "--print_config"]) == 0
assert main(["fit", "--config", sys.argv[1]]) == 2
"""
    )
    done = process(["-W", "error", "-c", script, config], tmp_path, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "message: pl_bolts acnet_pl.integrations.bolts needs lightning-bolts, which is not installed" in done.stdout
    assert "PlainConv" in done.stdout
    for output in (done.stdout, done.stderr):
        assert "pip install --no-deps lightning-bolts==0.7.0" in output
