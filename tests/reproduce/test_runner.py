from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from acnet_pl.reproduce import runner
from acnet_pl.reproduce.plan import Options, PlannedRun, make_plan
from acnet_pl.reproduce.settings import SettingsParser

# Stands in for `python -m acnet_pl fit`: leaves a run's folder, or fails, by the run's name.
FIT = """
import pathlib, sys
folder, config, fails = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "fails"
folder.mkdir(parents=True)
(folder / "config.yaml").write_text(config)
print("[rank0]: so it goes in [/a/file]")
if fails:
    sys.exit(3)
(folder / "summary.json").write_text('{"metrics": {"test/top1": 0.5}}')
"""


@pytest.fixture
def runs(tmp_path: Path, parser: SettingsParser) -> list[PlannedRun]:
    options = Options(("table1",), models=("cifar_quick",), seeds=(0, 1), epochs=2, runs_dir=tmp_path)
    return make_plan(options, parser)["table1"][1]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has the runner start the stand-in; the list names the runs it started, and those called "fails:..." fail."""
    started: list[str] = []

    def command_line(run: PlannedRun, python: str = "python") -> list[str]:
        started.append(run.run.name)
        folder = run.runs_dir / run.run.name / f"attempt-{len(started)}"
        outcome = "fails" if run.run.name == "cifar_quick_staircase-acb-seed0" and len(started) < 4 else "works"
        return [sys.executable, "-c", FIT, str(folder), json.dumps(run.config), outcome]

    monkeypatch.setattr(runner, "command_line", command_line)
    return started


def run_all(runs: Sequence[PlannedRun]) -> tuple[dict[str, int], str]:
    screen = io.StringIO()
    return runner.run_all(runs, Console(file=screen, width=200)), screen.getvalue()


def test_a_run_that_fails_does_not_end_the_others(runs: list[PlannedRun], attempts: list[str]) -> None:
    failed, screen = run_all(runs)
    assert failed == {"cifar_quick_staircase-acb-seed0": 3}
    assert attempts == [run.run.name for run in runs]
    assert [run.state() for run in runs] == ["finished", "unfinished", "finished", "finished"]
    assert "failed (3)" in screen
    assert "[rank0]: so it goes in [/a/file]" in screen
    assert "[rank0]: so it goes in [/a/file]" in runner.log_file(runs[1]).read_text()


def test_a_long_run_is_reported_in_lines_where_no_bar_is_drawn(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(run: PlannedRun, advance: Callable[[int], None]) -> int:
        advance(1)
        return 1

    monkeypatch.setattr(runner, "_run", run)
    monkeypatch.setattr(runner, "_end", lambda run: "")
    assert "plain-seed0: 1 of 2 epochs" not in run_all(runs[:1])[1]  # a minute has not passed
    monkeypatch.setattr(runner, "_LINE_SECONDS", 0)
    assert "1/1 cifar_quick_staircase-plain-seed0: 1 of 2 epochs" in run_all(runs[:1])[1]


def test_progress_counts_no_test_as_an_epoch_and_ends_at_all_runs(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs[0].runs_dir / runs[0].run.name / "a"
    write = "import pathlib, sys, time; path = pathlib.Path(sys.argv[1]); path.mkdir(); path = path / 'metrics.csv'; "
    write += "path.write_text('epoch,loss\\n0,1\\n1,1\\n2,1\\n'); time.sleep(0.5)"
    monkeypatch.setattr(runner, "command_line", lambda run, python: [python, "-c", write, str(folder)])
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.05)
    seen: list[int] = []
    assert runner._run(runs[0], seen.append) == 0
    assert max(seen) == runs[0].epochs == 2
    monkeypatch.setattr(runner, "_run", lambda run, advance: 1)
    monkeypatch.setattr(runner, "_end", lambda run: "")
    monkeypatch.setattr(runner, "_cost", lambda run: 49.0)  # 4 / (4 · 49) · (4 · 49) is less than 4
    assert f"{len(runs)}/{len(runs)} " in run_all(runs)[1].splitlines()[-1]


def test_what_failed_is_run_again_and_alone(runs: list[PlannedRun], attempts: list[str]) -> None:
    run_all(runs)
    assert run_all([run for run in runs if run.state() != "finished"])[0] == {}
    assert attempts[4:] == ["cifar_quick_staircase-acb-seed0"]
    assert {run.state() for run in runs} == {"finished"}


def test_a_run_that_says_it_worked_and_left_no_result_has_failed(
    runs: list[PlannedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "command_line", lambda run, python="python": [sys.executable, "-c", "pass"])
    assert run_all(runs[:1])[0] == {"cifar_quick_staircase-plain-seed0": 0}


@pytest.mark.parametrize("text", [b"epoch,step\ninf,1\n", b"epoch,step\nx,1\n", b"epoch\n\xff\n"])
def test_a_table_that_no_run_has_written_does_not_stop_the_progress(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/metrics.csv").write_bytes(text)
    assert runner._epochs_done(tmp_path, 0) == 0
