"""`python -m acnet_pl reproduce`, from the command line to the report."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
import yaml

from acnet_pl.cli import main
from acnet_pl.reproduce import plots, runner
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import EXPERIMENTS, SettingsParser


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the repository free of runs/, where --list records the plan."""
    monkeypatch.chdir(tmp_path)


def commands(capsys: pytest.CaptureFixture[str], *args: str) -> list[list[str]]:
    assert main(["reproduce", *args, "--list"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_the_list_is_one_command_per_run(capsys: pytest.CaptureFixture[str], parser: SettingsParser) -> None:
    listed = commands(capsys, "table1", "--seeds", "0", "1", "--models", "vgg16", "--data.root", "some where")
    assert len(listed) == 4
    for command in listed:
        assert command[:4] == ["python", "-m", "acnet_pl", "fit"]
        config = parser(command[3:])
        assert config["data"]["init_args"]["root"] == "some where"
        assert config["name"].startswith("vgg16_staircase-")
    assert len({tuple(command) for command in listed}) == 4


def test_the_sweep_is_table_1(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / "table1.yaml").read_text())
    assert sweep["method"] == "grid"
    assert sweep["command"][:4] == ["python", "-m", "acnet_pl", "reproduce"]
    chosen = [values["values"] for values in sweep["parameters"].values()]
    found = set()
    for values in itertools.product(*chosen):
        arguments = [f"--{name}={value}" for name, value in zip(sweep["parameters"], values, strict=True)]
        (command,) = commands(capsys, *sweep["command"][4:-1], *arguments)
        found.add(tuple(command))
    assert found == {tuple(command) for command in commands(capsys, "table1")}


def test_the_plan_names_runs_and_cost(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["reproduce", "digits", "--models", "resnet8", "--seeds", "0", "--dry-run", "--runs_dir", str(tmp_path)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 runs to do: 45 epochs" in shown
    assert "digits-resnet8-plain-seed0" in shown
    assert "0.50" in shown
    assert "(assumed)" in shown
    warned = "Warning: ResNet-8: 1 pairs are planned, and a gain of +0.50 needs 10 (ACNet; ACNet, border). "
    assert f"{warned}Give --seeds 0 1 2 3 4 5 6 7 8 9, or" in shown
    assert "Once a run is finished, this tells how many hours" in shown
    assert main([*arguments, "--gain", "0.001"]) == 0
    shown = capsys.readouterr().out
    assert "a gain of +0.001 needs more than 10,000 (ACNet; ACNet, border). Look for a larger gain, or" in shown
    assert main([*arguments, "--gain", "4", "--seeds", "0", "1", "2", "3"]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["table9"], 2, "is none of ablations"),
        (["table1", "--seed_everything", "1"], 2, "decided by the grid"),
        (["table1", "--trainer.max_epochs=3"], 2, "decided by the grid"),
        (["table1", "--seeds", "1", "1"], 2, "must differ"),
        (["table1", "--epochs", "0"], 2, "at least 1"),
        (["table1", "--gain", "0"], 2, "--gain (=0.0) must be a finite number of points other than 0"),
        (["table1", "--gain", "inf"], 2, "--gain (=inf) must be a finite number"),
        (["table1", "--spread", "nan"], 2, "--spread (=nan) must be a finite number of points, at least 0"),
        (["table1", "--seeds", "0", "-1"], 2, "--seeds (-1) must be from 0 to 4294967295"),
        (["table1", "--pruning_seeds", "0"], 2, "--pruning_seeds (=0) must be at least 1"),
        (["table1", "--models", "resnet57", "--list"], 2, "densenet40; did you mean resnet56?"),
        (["table1", "--recipe", "linear", "--list"], 1, "article, cosine"),
        (["table3", "--select", "best", "--list"], 1, "--select last"),
        (["table1", "--trainer.max_epok", "3", "--list"], 2, "max_epok"),
    ],
)
def test_mistakes_are_answered_with_a_message(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments]) == code
    assert message in capsys.readouterr().err


def test_a_report_names_the_files_that_it_cannot_use(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table1", "--models", "cifar_quick", "--variants", "plain", "--seeds", "0"]
    command += ["--epochs", "2", "--runs_dir", str(tmp_path), "--report-only"]
    ((_, (run,)),) = make_plan(
        Options(("table1",), ("cifar_quick",), ("plain",), (0,), epochs=2, runs_dir=tmp_path), parser
    ).values()
    folder = fabricate(run, 37.5)
    metrics, plan = folder / "metrics.csv", tmp_path / "reproduce" / "table1" / "plan.json"
    metrics.write_text("epoch,val/top1\ninf,0.5\n")
    assert main(command) == 1
    assert f"error: {metrics} is no table of a training's figures (`epoch` is inf" in capsys.readouterr().err
    metrics.unlink()
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"Warning: left out {folder}/summary.json: `metrics/test/top1` is 37.5, expected an accuracy" in shown
    assert "Written: " in shown
    plan.write_text('{"format": "acnet_pl.plan/2", "plans": [{}]}')
    assert main(command) == 1
    assert f"error: {plan} is no record of seeds and epochs (a plan is" in capsys.readouterr().err


@pytest.mark.slow
def test_a_grid_that_is_stopped_goes_on_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    command = [sys.executable, "-m", "acnet_pl", "reproduce", "digits", "--models", "resnet8", "--variants", "plain"]
    command += ["--seeds", "0", "--epochs", "40", "--pruning_seeds", "1", "--runs_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    results = json.loads((tmp_path / "reproduce" / "digits" / "results.json").read_text())
    assert [run["state"] for run in results["grids"]["digits"]["runs"]] == ["unfinished"]
    (folder,) = tmp_path.glob("digits-*/*/")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert list(tmp_path.glob("digits-*/*/")) == [folder]
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 40
    assert "Going on with the run" in (folder.parent / "log.txt").read_text()


def start_first_alone(process: Callable[..., Any], tmp_path: Path) -> SimpleNamespace:
    """``subprocess`` for the runner: the first run gets an interpreter of its own, the others are forked."""
    started: list[Sequence[str]] = []

    def start(command: Sequence[str], stdout: TextIO, stderr: int) -> Any:
        started.append(command)
        if len(started) == 1:
            return subprocess.Popen(command, stdout=stdout, stderr=stderr)
        assert command[0] == sys.executable
        done = process(command[1:], tmp_path)
        stdout.write(done.stdout + done.stderr)
        return SimpleNamespace(wait=lambda _: done.returncode)

    return SimpleNamespace(Popen=start, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)


def test_a_grid_on_digits_from_training_to_report(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    process: Callable[..., Any],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(runner, "subprocess", start_first_alone(process, tmp_path))
    monkeypatch.setattr(plots, "_svg", lambda figure: "<svg/>")  # drawn in the report's own tests
    options = ["--models", "resnet8", "--variants", "plain", "acb", "--seeds", "3", "--epochs", "1"]
    options += ["--pruning_seeds", "1", "--data.image_size", "8", "--runs_dir", str(tmp_path)]
    assert main(["reproduce", "digits", *options]) == 0
    for log in tmp_path.glob("digits-*/log.txt"):
        assert "epoch 1/1  " in log.read_text()  # where training is can be read from the log
    report = tmp_path / "reproduce" / "digits"
    grid = json.loads((report / "results.json").read_text())["grids"]["digits"]
    assert grid["runs_finished"] == 2
    assert grid["departures"]["data.init_args.image_size"] == ["16 → 8"]
    for figure in grid["figures"]:
        (run,) = [run for run in grid["runs"] if run["variant"] == figure["variant"]]
        summary = json.loads((Path(run["folder"]) / "summary.json").read_text())
        part, _, name = figure["measure"].partition("/")
        assert figure["percent"]["by_seed"] == {"3": pytest.approx(100 * summary[part][name])}
    assert set(grid["magnitude"]) == set(grid["pruning"]) == {"resnet8/plain", "resnet8/acb"}
    html = (report / "report.html").read_text()
    assert html.count("<picture>") == 2 + 2 + 3 + 5  # the last: the curves of dashboards

    # What is finished is not run again.
    capsys.readouterr()
    assert main(["reproduce", "digits", *options, "--dry-run"]) == 0
    assert "0 of 2 runs to do" in capsys.readouterr().out
