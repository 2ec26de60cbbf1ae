import os
import subprocess
import sys

import pytest

from acnet_pl.cli import COMMANDS, main


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_the_overview_names_every_command(args, capsys):
    assert main(args) == (0 if args else 2)
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["fit", "fuse", "demo"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m acnet_pl")
    assert command in text.splitlines()[0]
    assert len(text) > 300
