"""One file adds a command, callback, data module, block, analysis or table: in this package, or in another one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import acnet_pl

PACKAGE = Path(acnet_pl.__file__).parent

# Of each kind: the folder in this package, the entry point's name (the class for what is a class), and the module.
FILES = {
    "commands": (
        "cli/commands/greet.py",
        "greet",
        '"""Greet whoever asks."""\n\ndef run(args):\n    print("hello from", __name__)\n',
    ),
    "callbacks": (
        "callbacks/greeter.py",
        "Greeter",
        "from pytorch_lightning.callbacks import Callback\n__all__ = ['Greeter']\n"
        'class Greeter(Callback):\n    """Greet at the start of a fit.\n\n'
        '    Args:\n        often: How often.\n    """\n'
        "    def __init__(self, often: int = 3) -> None:\n        self.often = often\n",
    ),
    "data": (
        "data/blanks.py",
        "BlanksDataModule",
        "from acnet_pl.data.digits import DigitsDataModule\n__all__ = ['BlanksDataModule']\n"
        'class BlanksDataModule(DigitsDataModule):\n    """Sheets of blank paper."""\n',
    ),
    "blocks": (
        "nn/bare.py",
        "BareConv",
        "from acnet_pl.nn.conv import PlainConv\n__all__ = ['BareConv']\n"
        'class BareConv(PlainConv):\n    """A convolution with nothing around it."""\n',
    ),
    "grids": (
        "reproduce/grids/mine.py",
        "mine",
        "from dataclasses import replace\nfrom acnet_pl.reproduce.grids import digits\n"
        "GRID = replace(digits.GRID, name='mine', title='My own table')\n",
    ),
    "analyses": (
        "reproduce/analyses/bias.py",
        "bias",
        "from acnet_pl.reproduce.analyses.magnitude import ANALYSIS as magnitude\nANALYSIS = magnitude\n",
    ),
}
CLASSES = {"callbacks", "data", "blocks"}
HELP = [["--help"], ["greet"], *(["fit", "--help", part] for part in ("data", "conv", "callbacks", "Greeter"))]
HELP += [["reproduce", "--help"]]


def one_file_each_in_this_package(folder):
    """A copy of the package with one more file for each kind."""
    without_recipes = shutil.ignore_patterns("experiments", "__pycache__")
    shutil.copytree(PACKAGE, folder / "acnet_pl", ignore=without_recipes)
    (folder / "acnet_pl/experiments").symlink_to((PACKAGE / "experiments").resolve())
    for path, _, source in FILES.values():
        (folder / "acnet_pl" / path).write_text(source)


def one_entry_point_each_of_another_package(folder):
    """An installed package with a module and an entry point for each kind."""
    (folder / "stranger").mkdir()
    (folder / "stranger/__init__.py").touch()
    lines = []
    for kind, (path, name, source) in FILES.items():
        module = Path(path).stem
        (folder / f"stranger/{module}.py").write_text(source)
        lines.append(f"[acnet_pl.{kind}]\n{name} = stranger.{module}{f':{name}' if kind in CLASSES else ''}\n")
    information = folder / "stranger-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("\n".join(lines))


def said(folder, calls):
    code = f"from acnet_pl.cli import main\nfor call in {calls}:\n    assert main(call) == 0, call"
    path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("add", [one_file_each_in_this_package, one_entry_point_each_of_another_package])
def test_help_shows_what_one_file_adds(add, tmp_path):
    add(tmp_path)
    text = " ".join(said(tmp_path, HELP).split())
    home = "acnet_pl.cli.commands" if (tmp_path / "acnet_pl").is_dir() else "stranger"
    assert "greet greet whoever asks" in text
    assert f"hello from {home}.greet" in text
    assert "BlanksDataModule Sheets of blank paper." in text
    assert "BareConv A convolution with nothing around it." in text
    assert "Greeter Greet at the start of a fit." in text
    assert "--trainer.callbacks.often How often. (default 3)" in text
    assert "fig6, mine, table1" in text or "table4, mine" in text
    assert "bias, magnitude, pruning" in text or "magnitude, pruning, bias" in text


def test_fit_takes_the_short_names_of_another_package(tmp_path, process):
    one_entry_point_each_of_another_package(tmp_path)
    call = ["fit", "--data", "BlanksDataModule", "--model.conv", "BareConv", "--trainer.callbacks+", "Greeter"]
    command = ["-m", "acnet_pl", *call, "--trainer.callbacks.often", "5", "--print_config"]
    done = process(command, tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(PACKAGE.parent)]))
    assert done.returncode == 0, done.stderr
    config = done.stdout
    for name in ("stranger.blanks.BlanksDataModule", "stranger.bare.BareConv", "stranger.greeter.Greeter"):
        assert f"class_path: {name}" in config
    assert "often: 5" in config
