"""What the README tells to type works: its commands, its Python, its YAML."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from acnet_pl.cli import COMMANDS, main

pytestmark = pytest.mark.filterwarnings("ignore")

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return [line.removeprefix("python -m acnet_pl ") for line in lines if line.startswith("python -m acnet_pl ")]


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A working folder from which experiments/ is found, as in a checkout."""
    (tmp_path / "experiments").symlink_to(Path(__file__).parent.parent.parent / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_are_found():
    assert {command.split()[0] for command in commands()} >= {"fit", "test", "fuse", "export", "reproduce"}
    assert {command.split()[0] for command in commands()} <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[0] == "fit"])
def test_a_fit_command_is_understood(command, somewhere, capsys):
    assert main([*shlex.split(command), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["backbone"]["class_path"].startswith("acnet_pl.backbones.")


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[0] in ("test", "validate", "predict", "fuse")])
def test_a_command_on_a_checkpoint_runs(command, somewhere, finished, capsys):
    words = [word.replace("runs/NAME/TIME", str(finished)) for word in shlex.split(command)]
    if words[0] == "fuse":
        words += ["--image_size", "8", "--output", "fused.safetensors"]
    else:
        words += ["--data.image_size", "8"]
    assert main(words) == 0


def test_the_python_blocks_run(somewhere, finished):
    network = """
from torchvision.models import squeezenet1_0
model = squeezenet1_0(num_classes=4)
"""
    for block in blocks("python"):
        code = block.replace("runs/NAME/TIME", str(finished))
        exec(compile(network + code, "README.md", "exec"), {})


def test_the_bolts_example_is_understood(somewhere, capsys):
    (example,) = [block for block in blocks("yaml") if "pl_bolts" in block]
    Path("bolts.yaml").write_text(example)
    assert main(["fit", "--config", "bolts.yaml", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["class_path"].startswith("pl_bolts.datamodules")
    assert "pl_bolts" in str(config["trainer"]["callbacks"])
    assert config["model"]["schedule"]["init_args"]["warmup_epochs"] == 5
