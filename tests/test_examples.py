"""The scripts of the documentation run as a reader would run them, without a warning."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].joinpath("docs/examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"fit_in_ten_lines", "own_module"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path, process: Callable[..., Any]) -> None:
    ignored = ["ignore:The '", "ignore:You defined"]  # advice on worker processes, which differs between machines
    warnings = [option for text in ("error", *ignored[:1]) for option in ("-W", text)]
    if path == EXAMPLES[0]:  # with the warnings of the imports, which are the same in all
        command = [sys.executable, *warnings, str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    else:
        done = process([*warnings, path], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Fused the last weights" in done.stderr + done.stdout
    assert len(list(tmp_path.rglob("fused.safetensors"))) == 1
