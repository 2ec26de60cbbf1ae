"""A disk that fills up in the middle of a run: a clear error, whole checkpoints, and a run that goes on with room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("left", [2, pytest.param(24, marks=pytest.mark.faults)])
def test_a_full_disk(left: int, mortal: Any, undisturbed: Any, small_disk: Path, tmp_path: Path) -> None:
    expected, _ = undisturbed
    # Dies with two checkpoints written, and then finds the disk all but full.
    options = ["--runs_dir", str(small_disk)]
    mortal.run(tmp_path, *options, death=["at", "acnet_pl.modules:ImageClassifier.training_step", 14])
    (run,) = (small_disk / "mortal").iterdir()
    free = int(
        subprocess.run(["df", "--output=avail", "-k", small_disk], capture_output=True, text=True).stdout.split()[1]
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1024 * (free - left)))

    output, _ = mortal.run(tmp_path, *options, code=1)
    assert "acnet_pl fit: error: " in output
    assert "No space left on device" in output
    assert "Traceback" not in output
    for name in ("last.ckpt", "previous.ckpt"):
        assert torch.load(run / "checkpoints" / name, weights_only=True)["global_step"] in (5, 10, 11, 15)
    assert not list(run.rglob(".unfinished-*"))

    ballast.unlink()
    output, _ = mortal.run(tmp_path, *options)
    assert "from last.ckpt" in output
    type(expected)(run).assert_same_as(expected)
