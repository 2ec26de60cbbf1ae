"""A wheel built from the tree works elsewhere: no repo and no configuration beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (wheel,) = (folder / "dist").glob("acnet_pl-*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / "site"),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True, cwd=folder)
    return folder / "site"


def run(installed, cwd, *command):
    environment = {**os.environ, "PYTHONPATH": str(installed), "WANDB_MODE": "offline"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


FIT_AND_LOAD = """
import pathlib, runpy, sys
sys.argv = ["acnet_pl", "fit", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
sys.argv += ["--trainer.limit_train_batches", "4", "--wandb.mode", "disabled"]
try:
    runpy.run_module("acnet_pl", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
import acnet_pl
(file,) = pathlib.Path().glob("runs/CifarQuick-ACBConv/*/fused.safetensors")
print(acnet_pl.__file__)
print(type(acnet_pl.load_fused(file)).__name__)
"""


def test_fit_needs_nothing_but_the_wheel(installed, tmp_path):
    done = run(installed, tmp_path, "-c", FIT_AND_LOAD)
    assert done.returncode == 0, done.stderr
    file, network = done.stdout.splitlines()[-2:]
    assert Path(file).is_relative_to(installed)
    assert network == "CifarQuick"
    (folder,) = (tmp_path / "runs/CifarQuick-ACBConv").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < summary["metrics"]["test/top1"] <= 1
    assert summary["equivalence"]["max_rel_difference"] < 1e-5


def test_the_wheel_declares_its_types_and_licence(installed):
    assert (installed / "acnet_pl/py.typed").is_file()
    (info,) = installed.glob("acnet_pl-*.dist-info")
    assert (info / "licenses/LICENSE").is_file()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
