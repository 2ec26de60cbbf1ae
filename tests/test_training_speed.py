"""The benchmark of the training step: its figures, what it says of contenders that fail, and its budget."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


# Contenders are started as they are elsewhere, but from a process that has imported torch once for all.
FROM_ONE = """
import multiprocessing, runpy, sys

multiprocessing.set_forkserver_preload(["step_contender"])
get_context = multiprocessing.get_context
multiprocessing.get_context = lambda method: get_context("forkserver" if method == "spawn" else method)
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Run = Callable[..., tuple[str, list[dict[str, Any]]]]


@pytest.fixture
def run(tmp_path: Path, process: Callable[..., Any]) -> Run:
    """``run(*options)`` runs the benchmark; gives what it shows and its rows."""

    def benchmark(*options: str) -> tuple[str, list[dict[str, Any]]]:
        out = tmp_path / "speed.json"
        command = ["-c", FROM_ONE, BENCHMARKS / "training_speed.py", "--models", "cifar_quick", "--device", "cpu"]
        command += ["--modes", "eager-fp32", "--batch-size", "2", "--steps", "3", "--out", out, *options]
        done = process(command, tmp_path, COLUMNS="200")
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads(out.read_text(encoding="utf-8"))["rows"]

    return benchmark


def test_each_contender_has_its_row_and_one_that_fails_says_why(tmp_path: Path, run: Run) -> None:
    broken = tmp_path / "acb.py"
    broken.write_text("raise ImportError('no such block')")
    shown, rows = run("--contenders", "acnet", "--reference", str(broken), "--profile")
    plain, acnet, reference = rows
    assert [row["contender"] for row in rows] == ["plain", "acnet", "reference"]
    assert plain["ratio"] == plain["macs_ratio"] == 1
    # 5×5, 1×5 and 5×1 kernels in the place of 5×5 ones.
    assert acnet["macs_ratio"] == pytest.approx((25 + 5 + 5) / 25)
    low, high = acnet["ratio_quartiles"]
    assert 0 < low <= acnet["ratio"] <= high
    assert 0 < plain["convolution_share"] < 1
    assert acnet["memory_mb"] > plain["memory_mb"] > 0
    assert reference["failed"] == "ImportError: no such block"
    assert "ratio" not in reference
    for row in rows:
        assert f"cifar_quick eager-fp32 {row['contender']}: " in shown


def test_a_budget_is_kept(run: Run) -> None:
    start = time.monotonic()
    shown, rows = run("--contenders", "plain", "--budget", "0.5")
    assert time.monotonic() - start < 60  # imports of a busy machine; the benchmark itself takes longer
    assert rows == [{"model": "cifar_quick", "mode": "eager-fp32", "contender": "plain", "failed": "not in the time"}]
    assert "left out, not in the time" in shown
