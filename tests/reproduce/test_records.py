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
from acnet_pl.reproduce.records import _changes, read_records, with_records
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
    assert there["fixed"] == [*found["fixed"], there["fixed"][-1]]
    assert "UNFINISHED. seed 1 of the planned ones" in there["fixed"][-1]
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


CONV = {"class_path": "acnet_pl.nn.conv.PlainConv", "init_args": {}}


@pytest.mark.parametrize(
    ("theirs", "ours", "differ"),
    [
        (("--trainer.callbacks+=EMAWeightAveraging",), (), True),
        (
            ("--trainer.callbacks+=StochasticWeightAveraging",),
            ("--trainer.callbacks+=StochasticWeightAveraging",),
            False,
        ),
        (("--trainer.callbacks+=A", "--trainer.callbacks+=B"), ("--trainer.callbacks+=B",), True),
        (("--trainer.callbacks+=A", "--trainer.callbacks.decay", "1"), ("--trainer.callbacks+=A",), True),
        (("--model.lr", "1", "--model.lr", "2"), ("--model.lr", "2"), False),
        ((), ("--wandb.mode", "disabled"), False),
    ],
)
def test_options_that_decide_figures(theirs: tuple[str, ...], ours: tuple[str, ...], differ: bool) -> None:
    assert bool(_changes(["fit", *theirs], ["fit", *ours], set())) == differ


def test_a_plan_without_variants_holds_for_those_of_its_record(record: Path) -> None:
    content = json.loads(record.read_text())
    grid = content["grids"]["table1"]
    (plain, block) = read_records([record]).plans
    old = {key: value for key, value in grid["plans"][0].items() if key != "variant"}
    grid["plans"] = [{**old, "runs": 4}]
    record.write_text(json.dumps(content))
    assert read_records([record]).plans == (plain, block)
    grid["plans"] = [{**old, "runs": 6}]  # one more variant, which the record does not have
    record.write_text(json.dumps(content))
    assert [plan.variant for plan in read_records([record]).plans] == [""]


def test_a_report_does_not_replace_its_own_record(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = record.read_text()
    options = ("--runs_dir", str(record.parents[2]), "--records", str(record), "--data.root", "there", "--report-only")
    assert reproduce(*options) != 0
    assert "is the file that this report is written to" in capsys.readouterr().err
    assert record.read_text() == before


def test_a_run_that_was_trained_again_is_named(
    record: Path, tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    """Whether the newest counts must not depend on its figures."""
    here = tmp_path / "here"
    options = Options(
        ("table1",), ("cifar_quick",), ("plain", "acb"), (0, 1), epochs=2, runs_dir=here, fit=("--data.root", "here")
    )
    fabricate(make_plan(options, parser)["table1"][1][0], 0.9)
    assert reproduce("--runs_dir", str(here), "--data.root", "here", "--records", str(record), "--report-only") == 0
    (said,) = (remark for remark in grid_of(here)["mixed"] if "TRAINED AGAIN" in remark)
    assert "cifar_quick_staircase-plain-seed0: 2 finished trainings" in said
    assert "or in the record" in said
    further = ("--records", str(here / "reproduce/table1/results.json"), "--report-only")
    assert reproduce("--runs_dir", str(tmp_path / "next"), "--data.root", "here", *further) == 0
    assert said in grid_of(tmp_path / "next")["mixed"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conv": CONV}, "model.conv.init_args.draw fan_out instead of pytorch"),  # as before there was a choice
        ({"conv": {**CONV, "class_path": "acnet_pl.nn.conv.ACBConv"}}, "ACBConv instead of"),
        ({"epochs": 30}, "30 epochs instead of 2"),
        ({"metrics": {"test/top1": 0.81}}, "metrics/test/top1 0.8100 beside rotation/original/top1 0.8000"),
        ({"equivalence": {"fused_accuracy": 0.81}}, "equivalence/fused_accuracy 0.8100 beside"),
    ],
)
def test_a_run_that_contradicts_its_command_or_itself_is_left_out_and_named(
    record: Path, parser: SettingsParser, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    content = json.loads(record.read_text())
    content["grids"]["table1"]["runs"][0]["summary"].update(change)
    record.write_text(json.dumps(content))
    options = Options(("table1",), ("cifar_quick",), ("plain", "acb"), (0, 1), epochs=2, runs_dir=tmp_path / "here")
    runs, (left_out,) = with_records(make_plan(options, parser)["table1"][1], read_records([record]))
    assert [run.record is not None for run in runs] == [False, True, True, False]
    assert left_out.startswith(f"{record}: cifar_quick_staircase-plain-seed0 with ")
    assert reason in left_out


def test_a_former_default_is_no_other_option_where_it_is_asked_for(
    record: Path, parser: SettingsParser, tmp_path: Path
) -> None:
    content = json.loads(record.read_text())
    content["grids"]["table1"]["runs"][0]["summary"]["conv"] = CONV
    record.write_text(json.dumps(content))
    draw = ("--model.conv.draw", "fan_out")
    options = Options(("table1",), ("cifar_quick",), ("plain",), (0,), epochs=2, runs_dir=tmp_path / "here", fit=draw)
    ((run,), left_out) = with_records(make_plan(options, parser)["table1"][1], read_records([record]))
    assert (run.record is not None, left_out) == (True, [])


def test_a_run_in_two_records_counts_if_both_have_the_same_figures(
    record: Path, parser: SettingsParser, tmp_path: Path
) -> None:
    content, other = json.loads(record.read_text()), tmp_path / "other.json"
    first, second, _, _ = content["grids"]["table1"]["runs"]
    first["folder"] = "elsewhere"
    second["summary"]["metrics"]["val/loss"] = 0.5
    other.write_text(json.dumps(content))
    options = Options(("table1",), ("cifar_quick",), ("plain", "acb"), (0, 1), epochs=2, runs_dir=tmp_path / "here")
    runs, (left_out,) = with_records(make_plan(options, parser)["table1"][1], read_records([record, other]))
    assert [run.record is not None for run in runs] == [True, False, True, False]
    assert "acb-seed0 with figures that contradict those of the same run in " in left_out
    assert str(other) in left_out


def test_runs_of_a_record_that_are_not_planned_are_named(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.write_text(record.read_text().replace("staircase-acb-", "staircase-former-"))
    capsys.readouterr()
    assert reproduce("--runs_dir", str(tmp_path / "here"), "--records", str(record), "--list") == 0
    assert f"left out of {record}: cifar_quick_staircase-former-seed0, which" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="other"), "its format is not 'acnet_pl.results/1'"),
        (lambda content: content.pop("grids"), "it lacks 'grids'"),
        (lambda content: content.update(grids=[]), "it is not laid out as a record; expected a results.json"),
        (lambda content: content["grids"]["table1"]["runs"][0].pop("command"), "it lacks 'command'"),
        (lambda content: content["grids"]["table1"]["runs"][0].update(command="fit"), "is not a list of words"),
        (
            lambda content: content["grids"]["table1"]["runs"][0]["summary"]["metrics"].update({"test/top1": 80}),
            "`metrics/test/top1` is 80, expected an accuracy",
        ),
        (lambda content: content["grids"]["table1"]["runs"][0].update(curve=[{"epoch": "1"}]), "expected a number"),
        (lambda content: content["grids"]["table1"]["runs"][0].update(curve=[{"epoch": 10**30}]), "no number from 1"),
        (
            lambda content: content["grids"]["table1"]["runs"][0].update(curve=[{"epoch": 1, "train_loss": 10**400}]),
            "`train_loss` of an epoch is beyond 1e+38",
        ),
        (
            lambda content: content["grids"]["table1"]["runs"][0]["summary"].update(versions={"torch": "\ud800"}),
            "is no text that can be printed",
        ),
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
