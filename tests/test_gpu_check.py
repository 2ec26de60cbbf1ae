"""The check of a GPU: its stages keep their limits, leave what they had, and are in one file."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "_GRACE", 1.0)
    return module


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_pairs")


def python(code: str) -> Any:
    return lambda seconds: [sys.executable, "-c", code]


def test_each_stage_has_its_limit_and_leaves_what_it_had(
    check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = f"import pathlib, time; pathlib.Path({str(tmp_path)!r}, '%s.json').write_text('%s'); "
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stages = [
        check.Stage("whole", 20, python(write % ("whole", '{"rows": [1]}') + "print('one row')"), "whole.json"),
        check.Stage("slow", 2, python(stubborn + write % ("slow", "[2]") + "time.sleep(60)"), "slow.json"),
        check.Stage("torn", 20, python(write % ("torn", '{"ro') + "raise SystemExit(3)"), "torn.json"),
        check.Stage("absent", 20, lambda seconds: None, "absent.json"),
        check.Stage("late", 20, python("import time; time.sleep(60)")),
        check.Stage("never", 20, python("print('not said')")),
    ]
    start = time.monotonic()
    outcomes = check.run_check(stages, 8, tmp_path)
    assert time.monotonic() - start < 25
    states = {outcome["stage"]: outcome["state"] for outcome in outcomes}
    assert states == {
        "whole": "done", "slow": "stopped", "torn": "failed", "absent": "left out", "late": "stopped",
        "never": "no time left",
    }  # fmt: skip
    kept = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert kept["stages"] == outcomes
    records = {outcome["stage"]: outcome["record"] for outcome in outcomes}
    assert records == {"whole": {"rows": [1]}, "slow": [2], "torn": None, "absent": None, "late": None, "never": None}
    assert outcomes[2]["exit_code"] == 3
    assert kept["versions"]["torch"]
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "one row" in shown
    assert "not said" not in shown
    # A torn record stays where it is: what is in it can be read by eye.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.json", "log.txt", "torn.json"]


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """SIGINT is an interrupt also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interrupts")
def test_a_stage_ends_with_the_check(check: Any, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"

    def interrupt() -> None:
        while not (note.is_file() and note.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        check.run_check([check.Stage("slow", 40, python(code))], 40, tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_what_runs_had_reached_when_they_were_stopped_is_kept(pairs: Any, tmp_path: Path) -> None:
    for name, rows in {"acb-seed0": "0,,0.5\n0,0.4,\n1,0.6,\n1,,0.9\n", "acb-seed1": "0,,0.5\n"}.items():
        (tmp_path / name / "time").mkdir(parents=True)
        (tmp_path / name / "time" / "metrics.csv").write_text(f"epoch,val/top1,train/loss\n{rows}")
    (tmp_path / "acb-seed0/time/summary.json").write_text('{"metrics": {"test/top1": 0.7}}')
    assert pairs.reached(tmp_path) == {"acb-seed0": {"epoch": 1, "val/top1": 0.6, "test/top1": 0.7}}


def test_an_interruption_of_pairs_is_an_outcome(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def wait(self, seconds: float) -> int:
            raise KeyboardInterrupt

        def poll(self) -> int:
            return 130

    monkeypatch.setattr(pairs.subprocess, "Popen", lambda command: Process())
    assert pairs.reproduce([], 1) == "interrupted"


def test_make_runs_it() -> None:
    command = [
        "make",
        "--no-print-directory",
        "-n",
        "gpu-check",
        "DEVICE=cpu",
        "CHECK_PYTHON=python",
        "CHECK=--threads 2",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "BUDGET")}
    said = subprocess.run(
        command, cwd=BENCHMARKS.parent, env=environment, check=True, capture_output=True, text=True
    ).stdout
    wanted = "python benchmarks/gpu_check.py --device cpu --budget 480 --out gpu-check --threads 2"
    assert " ".join(said.split()) == wanted


def test_the_stages_are_commands_that_exist(check: Any, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        options = argparse.Namespace(device=device, budget=480, root=tmp_path, reference=tmp_path, threads=1)
        stages = check.make_stages(options, tmp_path, tmp_path)
        commands = {stage.name: stage.command(60) for stage in stages}
        assert list(commands)[:2] == ["tests", "speed"]
        assert {"evaluation", "decoding", "pairs", "pipeline"} < commands.keys()
        for stage in stages:
            (script,) = [word for word in commands[stage.name] if word.startswith("benchmarks/")] or ["setup.py"]
            assert script == "setup.py" or (BENCHMARKS.parent / script).is_file()
        # Files that come back are few and small.
        assert len(stages) < 10
    options.root = None
    without = {stage.name: stage.command(60) for stage in check.make_stages(options, tmp_path, tmp_path)}
    assert {name for name, command in without.items() if command is None} == {"pairs", "pipeline"}


def test_pairs_are_trained_for_the_epochs_that_there_is_time_for(pairs: Any, tmp_path: Path) -> None:
    quick = pairs.Pairs("cheaper", "cifar_quick", 8, 0.3)
    keys = pairs.variants(quick)
    assert keys[:2] == ["plain", "acb"]
    # 8 seeds, 390 steps of 1 ms for each variant, at 1.5 times the throughput of one after the other.
    rows = [{"model": "cifar_quick", "contender": name, "ms": 1.0} for name in pairs.VARIANTS.values()]
    assert pairs.epoch_seconds(quick, rows) == pytest.approx(8 * len(keys) * 0.390 / 1.5)
    assert pairs.epoch_seconds(quick, []) > 8 * 0.64e-3 * 390 / 1.5
    assert [pairs.epochs_in(seconds, 4.0, 12) for seconds in (40.9, 41.1, 73.1, 9999)] == [0, 2, 10, 30]
    check = {"stages": [{"stage": "tests", "record": None}, {"stage": "speed", "record": {"rows": rows}}]}
    (tmp_path / "check.json").write_text(json.dumps(check))
    assert pairs.measured_steps(tmp_path / "check.json") == rows
    assert pairs.measured_steps(tmp_path / "none.json") == []
