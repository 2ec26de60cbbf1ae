"""`reproduce --records`: what is finished on other machines is reported, and not trained again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acnet_pl.cli import main
from acnet_pl.reproduce.fixed_plan import fix_plan
from acnet_pl.reproduce.grid import load_grid
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.records import read_records, with_records
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.settings import SettingsParser

GRID = ("table1", "--models", "cifar_quick", "--variants", "plain", "acb", "--epochs", "2", "--seeds", "0", "1")


def reproduce(*options: str) -> int:
    return main(["reproduce", *GRID, *options])


@pytest.fixture
def record(tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]) -> Path:
    """Record of a machine on which all but the ACNet of seed 1 are finished."""
    there = tmp_path / "there"
    options = Options(
        ("table1",), ("cifar_quick",), ("plain", "acb"), (0, 1), epochs=2, runs_dir=there, fit=("--data.root", "there")
    )
    plan = make_plan(options, parser)
    fix_plan(there / "reproduce" / "table1", plan)
    for number, run in enumerate(plan["table1"][1][:3]):
        fabricate(run, 0.8 + number / 100)
    assert reproduce("--runs_dir", str(there), "--data.root", "there", "--report-only") == 0
    return there / "reproduce" / "table1" / "results.json"


def grid_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "reproduce/table1/results.json").read_text())["grids"]["table1"]
    return found


def test_a_grid_goes_on_from_a_record(
    record: Path,
    tmp_path: Path,
    parser: SettingsParser,
    fabricate: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    arguments = ["--runs_dir", str(here), "--data.root", "here", "--records", str(record)]
    capsys.readouterr()
    assert reproduce(*arguments, "--list") == 0
    shown, warned = capsys.readouterr()
    assert warned == ""
    (line,) = shown.splitlines()
    assert "cifar_quick_staircase-acb-seed1" in line
    options = Options(
        ("table1",), ("cifar_quick",), ("acb",), (1,), epochs=2, runs_dir=here, fit=("--data.root", "here")
    )
    fabricate(make_plan(options, parser)["table1"][1][0], 0.9)
    assert reproduce(*arguments, "--report-only") == 0
    there, found = json.loads(record.read_text())["grids"]["table1"], grid_of(here)
    assert found["runs_finished"] == 4
    assert [run["summary"] for run in found["runs"][:3]] == [run["summary"] for run in there["runs"][:3]]
    assert [run["curve"] for run in found["runs"][:3]] == [run["curve"] for run in there["runs"][:3]]
    assert [run["folder"] for run in found["runs"][:3]] == [run["folder"] for run in there["runs"][:3]]
    assert found["figures"][1]["gain"]["by_seed"] == {"0": pytest.approx(1), "1": pytest.approx(8)}
    assert found["plans"] == there["plans"]
    assert found["fixed"] == there["fixed"]
    assert not any("MIXED" in remark for remark in found["fixed"])
    report = (here / "reproduce/table1/report.md").read_text()
    assert "Trained on other machines, and taken from their records: " in report
    assert "results.json (3 runs)" in report
    # The record of this machine says all that the other one said.
    assert (
        reproduce(
            "--runs_dir", str(tmp_path / "third"), "--records", str(here / "reproduce/table1/results.json"), "--dry-run"
        )
        == 0
    )
    assert "0 of 4 runs to do" in capsys.readouterr().out


def test_a_run_with_other_options_is_left_out_and_named(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    options = ["--runs_dir", str(tmp_path / "here"), "--records", str(record), "--data.batch_size", "64", "--dry-run"]
    assert reproduce(*options) == 0
    shown, warned = capsys.readouterr()
    assert "4 of 4 runs to do" in shown
    assert f"Warning: left out of {record}: cifar_quick_staircase-plain-seed0, " in warned
    assert warned.count("Warning") == 1, "runs with the same other options are named together"
    assert " with --data.batch_size" in warned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="other"), "its format is not 'acnet_pl.results/1'"),
        (lambda content: content.pop("grids"), "it lacks 'grids'"),
        (lambda content: content.update(grids=[]), "expected a results.json"),
        (lambda content: content["grids"]["table1"]["runs"][0].pop("command"), "it lacks 'command'"),
        (lambda content: content["grids"]["table1"]["runs"][0].update(command="fit"), "is not a list of words"),
        (
            lambda content: content["grids"]["table1"]["runs"][0]["summary"]["metrics"].update({"test/top1": 80}),
            "`metrics/test/top1` is 80, expected an accuracy",
        ),
        (lambda content: content["grids"]["table1"]["runs"][0].update(curve=[{"epoch": "1"}]), "expected a number"),
        (lambda content: content["grids"]["table1"]["plans"][0].update(epochs="2"), "`epochs` is '2'"),
    ],
)
def test_a_file_that_is_no_record_is_an_error(
    record: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(record.read_text())
    change(content)
    record.write_text(json.dumps(content))
    assert reproduce("--runs_dir", str(tmp_path / "here"), "--records", str(record), "--report-only") == 2
    assert message in capsys.readouterr().err


def test_a_missing_record_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--records", str(tmp_path / "results.json"), "--dry-run") == 2
    assert "results.json: No such file" in capsys.readouterr().err


def test_times_of_different_machines_are_not_compared(record: Path, tmp_path: Path) -> None:
    content = json.loads(record.read_text())
    for run in content["grids"]["table1"]["runs"][1:2]:  # the ACNet of seed 0
        run["summary"]["versions"]["device"] = "another device"
    record.write_text(json.dumps(content))
    options = Options(("table1",), ("cifar_quick",), ("plain", "acb"), (0, 1), epochs=2, runs_dir=tmp_path / "here")
    runs, left_out = with_records(make_plan(options)["table1"][1], read_records([record]))
    assert not left_out
    result = GridResult(load_grid("table1"), [RunResult.of(run) for run in runs], "article", "last", 1)
    assert result.finished == 3
    assert result.time_ratios("cifar_quick", "acb") == []
