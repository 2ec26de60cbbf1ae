import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from acnet_pl.cli import command_modules, main
from acnet_pl.config.catalogue import Catalogue
from acnet_pl.config.program import program

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_the_overview_names_every_command(args, capsys):
    assert main(args) == (0 if args else 2)
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in command_modules())


def test_the_overview_imports_neither_torch_nor_lightning():
    code = (
        "import sys; from acnet_pl.cli import main; main(['--help']); "
        "assert not {'torch', 'pytorch_lightning', 'wandb'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_version_is_the_packages(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"acnet_pl {version('acnet-pl')}"


@pytest.mark.parametrize("command", list(command_modules()))
def test_every_command_has_help_on_one_screen_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: {program()} {command}")
    assert len(lines) <= 48
    if command != "data":  # its help names subcommands alone
        assert any("--trust PACKAGE" in line for line in lines)
    examples = lines[lines.index("examples:") + 1 :]
    assert examples[0].startswith(f"  {program()} {command}")


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_screen_shows_options_that_exist_with_their_defaults(command, capsys):
    main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    catalogue = Catalogue(command)
    shown = re.findall(r" --([\w.]+) (?:[A-Z|a-z]+) ", text.partition("files:")[0])
    assert len(shown) > 5
    assert all(catalogue.knows(name) for name in shown)
    if command == "fit":
        for name, default in {"trainer.max_epochs": 15, "data.batch_size": 64, "model.optimizer.lr": 0.1}.items():
            assert re.search(rf"--{name} \w+ [^(]*\(default {default}\)", text), name


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("trainer", ["--trainer.max_epochs", "--trainer.precision"]),
        ("backbone", ["ResNetCifar", "VGG16"]),
        ("ResNetCifar", ["--model.backbone.depth", "--model.backbone.shortcut"]),
        ("AdamW", ["--model.optimizer.betas"]),
        ("all", ["--trainer.max_epochs", "--checkpoint.monitor", "--runs_dir", "--data.batch_size", "--fuse.enabled"]),
    ],
)
def test_help_on_a_part_lists_its_options(topic, expected, capsys):
    assert main(["fit", "--help", topic]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in expected)
    assert "ReLU" not in text


def test_help_on_what_there_is_not_names_what_there_is(capsys):
    assert main(["fit", "--help", "ResNetCifa"]) == 2
    assert "did you mean ResNetCifar?" in capsys.readouterr().err


def test_the_script_is_the_command_line(monkeypatch, tmp_path):
    """What is printed to be typed is what was typed, where the shell finds it."""
    script = tmp_path / "bin" / "acnet-pl"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "acnet-pl"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program() == "bin/acnet-pl"
    monkeypatch.setattr(sys, "argv", ["/somewhere/acnet_pl/__main__.py"])
    assert program() == f"{sys.executable} -m acnet_pl"


def test_the_script_of_the_package_is_main():
    scripts = re.search(r"\[project.scripts\]\nacnet-pl = \"(.+):(.+)\"", (ROOT / "pyproject.toml").read_text())
    assert scripts is not None
    assert getattr(import_module(scripts[1]), scripts[2]) is main
