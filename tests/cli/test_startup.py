"""What the command line imports before it answers: a list is surer than a clock."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import acnet_pl

SOURCE = Path(acnet_pl.__file__).parent
# Packages that take long to import and that only some commands, options or data need.
HEAVY = {"litdata", "matplotlib", "onnx", "onnxruntime", "onnxscript", "pandas", "scipy", "sklearn", "timm"}
HEAVY |= {"torchvision", "wandb"}

COUNT = """
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()):
    {code}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def imported(code: str) -> set[str]:
    """Packages that a fresh interpreter has imported once it has run something."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(code=code)], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*args: str) -> str:
    return f"from acnet_pl.cli import main; main({list(args)!r})"


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["no-such-command"]], ids=" ".join)
def test_the_overview_needs_the_standard_library_alone(args: list[str]) -> None:
    added = imported(command(*args)) - imported("import argparse, importlib.metadata")
    assert added & (HEAVY | {"torch", "numpy", "pytorch_lightning", "jsonargparse", "rich", "yaml"}) == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import acnet_pl") & (HEAVY | {"torch", "numpy"}) == set()


def test_fusing_on_an_example_does_not_wait_for_torch_compile() -> None:
    packages = imported(
        "import torch; from acnet_pl.nn import fuse_model\n"
        "    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()\n"
        "    fuse_model(torch.nn.Sequential(*layers).eval(), torch.zeros(2, 3, 8, 8))"
    )
    assert packages & {"sympy", "triton", "timm", "torchvision"} == set()  # the compiler's, and libraries of networks


def test_help_of_the_commands_needs_neither_torch_nor_lightning() -> None:
    added = imported(
        "from acnet_pl.cli import command_modules, main\n"
        "    codes = [main([command, '--help']) for command in command_modules()]\n"
        "    codes += [main(['fit', '--help', topic]) for topic in ('all', 'trainer', 'backbone', 'AdamW')]\n"
        "    assert not any(codes), codes"
    )
    assert "jsonargparse" in added
    assert added & (HEAVY | {"torch", "numpy", "pytorch_lightning"}) == set()


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    at_import = {}
    for file in SOURCE.rglob("*.py"):
        statements = ast.parse(file.read_text(encoding="utf-8")).body
        names = {alias.name for found in statements if isinstance(found, ast.Import) for alias in found.names}
        names |= {found.module or "" for found in statements if isinstance(found, ast.ImportFrom)}
        if heavy := {name.partition(".")[0] for name in names} & HEAVY:
            at_import[file.relative_to(SOURCE).as_posix()] = heavy
    assert at_import == {}
