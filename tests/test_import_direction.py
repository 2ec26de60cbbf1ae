"""Imports inside acnet_pl point one way: nn <- backbones <- modules; nn <- analysis <- callbacks <- config <- cli."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import acnet_pl

ROOT = Path(acnet_pl.__file__).parent

# What opens and checks files that come with runs and checkpoints.
FROM_FILES = {"regular_files", "torch_file", "weight_values"}

# Which parts of the package each part may import, besides itself. A part is a folder or a module of acnet_pl.
MAY_IMPORT: dict[str, set[str]] = {
    "nn": set(),
    "data": {"regular_files"},
    "backbones": {"nn", *FROM_FILES},
    "analysis": {"nn"},
    "modules": {"quiet", "nn", "backbones", "trust", "yaml_text", *FROM_FILES},
    "atomic": {"regular_files"},
    "yaml_text": set(),
    "quiet": set(),
    "trust": set(),
    "image_preparation": set(),
    "provenance": set(),
    "regular_files": set(),
    "weight_values": set(),
    "plain_pickle": set(),
    "torch_file": {"plain_pickle", "regular_files"},
    # networks out of checkpoints and files
    "checkpoint": {"nn", "backbones", "modules", "atomic", "image_preparation", *FROM_FILES},
    "deploy": {"nn", "backbones", "modules", "atomic", "image_preparation", *FROM_FILES},
    "export": {"nn", "analysis", "deploy", "atomic"},
    # what a command line says, and the parser that knows the options of callbacks
    "config": {"nn", "backbones", "modules", "callbacks", "data", "checkpoint", "integrations", "atomic", "trust"}
    | {"yaml_text", *FROM_FILES},
    "graphs": {"nn", "analysis", "data"},
    "loggers": {"atomic", "regular_files"},
    "callbacks": {
        *("loggers", "quiet", "nn", "backbones", "modules", "analysis", "checkpoint", "deploy", "atomic"),
        "image_preparation",
    },
}
MAY_IMPORT["reproduce"] = {*MAY_IMPORT, "config", "integrations"}  # everything but the command line above it
SEE_EVERYTHING = {"", "__main__", "cli", "integrations"}  # "" is acnet_pl/__init__.py
NN_MAY_IMPORT = {"torch", "typing_extensions", *sys.stdlib_module_names}


def imports(source: str, module: str) -> list[str]:
    """Dotted names of the modules that a module's source imports, at its top or inside functions, relative or not."""
    package = module.split(".")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            found += [f"{base if node.level else node.module}.{alias.name}" for alias in node.names]
    return found


def violations(path: Path, source: str) -> list[str]:
    """What a file under acnet_pl imports against the direction."""
    parts = path.with_suffix("").parts
    package = ".".join(["acnet_pl", *parts[:-1]])
    part = "" if parts == ("__init__",) else parts[0]
    wrong = []
    for name in imports(source, package):
        top, *rest = name.split(".")
        if top != "acnet_pl":
            if part == "nn" and top not in NN_MAY_IMPORT:
                wrong.append(name)
        elif part not in SEE_EVERYTHING and (rest[0] if rest else "") not in {part, *MAY_IMPORT.get(part, set())}:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py")), ids=str)
def test_imports_point_one_way(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert violations(path, source) == [], f"{path} imports what lies above or beside it; see MAY_IMPORT in {__file__}"


def test_every_part_has_its_place() -> None:
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert parts - {"__init__"} <= MAY_IMPORT.keys() | SEE_EVERYTHING


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("nn/acb.py", "import numpy as np", ["numpy"]),
        ("nn/acb.py", "def f():\n    from timm.layers import BatchNormAct2d", ["timm.layers.BatchNormAct2d"]),
        ("nn/acb.py", "from acnet_pl.backbones import ResNet", ["acnet_pl.backbones.ResNet"]),
        ("nn/acb.py", "from ..backbones import ResNet", ["acnet_pl.backbones.ResNet"]),
        ("nn/surgery/stock.py", "from ...data import x\nfrom .. import fusion\nfrom . import y", ["acnet_pl.data.x"]),
        ("nn/acb.py", "import sys, torch.fx\nfrom acnet_pl.nn.fusion import x\nfrom .fusion import x", []),
        ("backbones/vgg.py", "from acnet_pl.nn import ConvBuilder\nimport numpy", []),
        ("backbones/vgg.py", "from acnet_pl.modules import x", ["acnet_pl.modules.x"]),
        ("backbones/vgg.py", "from acnet_pl import modules", ["acnet_pl.modules"]),
        ("backbones/vgg.py", "import acnet_pl", ["acnet_pl"]),
        ("analysis/rotation.py", "import acnet_pl.callbacks.fuse", ["acnet_pl.callbacks.fuse"]),
        ("analysis/rotation.py", "from acnet_pl.data import x", ["acnet_pl.data.x"]),
        ("data/cifar.py", "from acnet_pl.nn import ACBlock", ["acnet_pl.nn.ACBlock"]),
        ("data/cifar.py", "from acnet_pl.data.images import x", []),
        ("callbacks/fuse.py", "from acnet_pl.cli import main", ["acnet_pl.cli.main"]),
        ("callbacks/fuse.py", "from acnet_pl.nn import x\nfrom acnet_pl.analysis import y", []),
        (
            "reproduce/plan.py",
            "from acnet_pl.cli import main\nfrom acnet_pl.config.files import x",
            ["acnet_pl.cli.main"],
        ),
        ("unheard_of.py", "from acnet_pl.nn import x", ["acnet_pl.nn.x"]),
        ("cli/main.py", "from acnet_pl.data import x\nfrom acnet_pl.callbacks import y", []),
        ("__init__.py", "from acnet_pl.nn import ACBlock", []),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, wrong: list[str]) -> None:
    assert violations(Path(path), source) == wrong
