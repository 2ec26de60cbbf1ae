"""What the README and the pages of docs/ tell to type works: commands, Python, YAML; and the site builds."""

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from PIL import Image

import acnet_pl
from acnet_pl import cli
from acnet_pl.cli import main
from acnet_pl.cli.commands import reproduce

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language, page=None):
    texts = [one.read_text() for one in PAGES if page in (None, one)]
    return [
        block for text in texts for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


def commands():
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    found = [line.removeprefix("python -m acnet_pl ") for line in lines if line.startswith("python -m acnet_pl ")]
    return list(dict.fromkeys(found))


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A working folder from which experiments/ is found, as in a checkout."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_are_found():
    assert {command.split()[0] for command in commands()} >= {"fit", "test", "fuse", "export", "reproduce"}
    assert {command.split()[0] for command in commands()} <= set(cli.command_modules())


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[0] == "fit"])
def test_a_fit_command_is_understood(command, somewhere, capsys):
    assert main([*shlex.split(command), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["backbone"]["class_path"].startswith("acnet_pl.backbones.")


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[0] in ("test", "validate", "predict", "fuse")])
def test_a_command_on_a_checkpoint_runs(command, somewhere, finished, capsys):
    words = [word.replace("runs/NAME/TIME", str(finished)) for word in shlex.split(command)]
    if words[0] == "predict" and "--ckpt_path" not in words:
        Path("new_photos").mkdir()
        Image.new("RGB", (20, 20)).save("new_photos/a.png")
    elif words[0] == "fuse":
        words += ["--image_size", "8", "--output", "fused.safetensors"]
    else:
        words += ["--data.image_size", "8"]
    assert main(words) == 0


@pytest.mark.parametrize("command", [c for c in commands() if c.split()[0] == "reproduce"])
def test_a_reproduce_command_is_understood(command):
    asked, fit = reproduce._parse(shlex.split(command)[1:])
    assert asked.what in command
    assert all(option in command for option in fit)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks("python", p)], ids=lambda p: p.stem)
def test_the_python_blocks_of_a_page_run_one_after_another(page, somewhere, finished):
    network = """
from torchvision.models import squeezenet1_0
model = squeezenet1_0(num_classes=4)
"""
    names = {}
    for block in [network, *blocks("python", page)]:
        exec(compile(block.replace("runs/NAME/TIME", str(finished)), page.name, "exec"), names)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with strict links and without running the notebooks."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_and_its_links_lead_somewhere(site):
    assert "DigitsDataModule" in (site / "tutorials/own-module.html").read_text(), "the example itself is shown"
    assert "paired" in (site / "results.html").read_text(), "the results are shown"
    assert {page.stem for page in (ROOT / "notebooks").glob("*.ipynb")} <= {
        page.stem for page in (site / "notebooks").glob("*.html")
    }


def test_beside_each_example_that_the_site_includes_is_a_link_to_its_file(site):
    included = [(page, name) for page in PAGES for name in re.findall(r'--8<-- "docs/(.+?)"', page.read_text())]
    assert included
    for page, name in included:
        link = os.path.relpath(ROOT / "docs" / name, page.parent)
        assert f"({link})" in page.read_text()
        assert (site / name).is_file()


def test_the_reference_has_every_public_name(site):
    text = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    packages = ("nn", "backbones", "data", "modules", "callbacks", "loggers", "analysis", "export", "deploy", "graphs")
    found = {}
    for module in (import_module(f"acnet_pl.{one}") for one in packages):
        for name in module.__all__:
            defined = getattr(getattr(module, name), "__module__", None)  # a function may be named like its module
            places = (module.__name__, defined)
            found[f"{module.__name__}.{name}"] = any(f'id="{place}.{name}"' in text for place in places)
    assert len(found) > 100
    assert [name for name, is_there in found.items() if not is_there] == []
    public = {*acnet_pl.__all__} - {*packages, "__version__"}
    assert public <= {name.rpartition(".")[2] for name in found}


def test_the_bolts_example_is_understood(somewhere, capsys):
    (example,) = blocks("yaml", ROOT / "docs/how-to/bolts.md")
    Path("bolts.yaml").write_text(example)
    assert main(["fit", "--config", "bolts.yaml", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["class_path"].startswith("pl_bolts.datamodules")
    assert "pl_bolts" in str(config["trainer"]["callbacks"])
    assert config["model"]["schedule"]["init_args"]["warmup_epochs"] == 5
