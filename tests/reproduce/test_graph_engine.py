"""`reproduce --engine graphs` leaves what `fit` leaves, and goes on where it was stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.process_server import empty_pictures

from acnet_pl.checkpoint import load_network
from acnet_pl.cli import main
from acnet_pl.deploy import load_fused
from acnet_pl.graphs import NetworkTraining, train_epoch
from acnet_pl.modules import ImageClassifier
from acnet_pl.reproduce import graphs, plots
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser

OPTIONS = ["--models", "resnet8", "--seeds", "3", "--epochs", "2", "--pruning_seeds", "1", "--data.image_size", "8"]
OPTIONS += ["--trainer.accelerator", "cpu"]


def reproduce(runs_dir: Path, *options: str) -> int:
    return main(["reproduce", "digits", *OPTIONS, "--runs_dir", str(runs_dir), *options])


def summaries(runs_dir: Path) -> dict[str, dict[str, Any]]:
    return {path.parts[-3]: json.loads(path.read_text()) for path in sorted(runs_dir.glob("*/*/summary.json"))}


def logged(runs_dir: Path, column: str) -> list[tuple[int, float]]:
    (path,) = runs_dir.glob("*-acb-*/*/metrics.csv")
    with path.open(newline="") as file:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column]]


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Pictures and charts without content, which no test here looks at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", empty_pictures())
        patch.setattr(plots, "_svg", lambda figure: "<svg/>")
        yield


@pytest.fixture(scope="module")
def by_graphs(tmp_path_factory: pytest.TempPathFactory, undrawn: None) -> Path:
    runs_dir = tmp_path_factory.mktemp("graphs")
    assert reproduce(runs_dir, "--variants", "plain", "acb", "--engine", "graphs") == 0
    return runs_dir


@pytest.fixture(scope="module")
def by_fit(tmp_path_factory: pytest.TempPathFactory, undrawn: None) -> Path:
    """The ACNet alone."""
    runs_dir = tmp_path_factory.mktemp("fit")
    (run,) = make_plan(
        Options(
            ("digits",),
            ("resnet8",),
            ("acb",),
            (3,),
            epochs=2,
            runs_dir=runs_dir,
            fit=("--data.image_size", "8", "--wandb.mode", "disabled", "--trainer.accelerator", "cpu"),
        )
    )["digits"][1]
    assert main(run.arguments) == 0
    return runs_dir


def test_figures_and_records_are_those_of_fit(by_graphs: Path, by_fit: Path) -> None:
    (reference,) = summaries(by_fit).values()
    own = summaries(by_graphs)["digits-resnet8-acb-seed3"]
    assert own.keys() == {*reference, "engine"}
    for part in ("metrics", "rotation"):
        assert own[part] == pytest.approx(reference[part], rel=1e-4)
    assert own["equivalence"].keys() == reference["equivalence"].keys()
    assert own["equivalence"]["max_rel_difference"] < 1e-5
    same = ("parameters_trained", "parameters_fused", "macs_trained", "macs_fused", "weights")
    assert [own["fused"][name] for name in same] == [reference["fused"][name] for name in same]
    for name in ("backbone", "conv", "epochs", "versions", "data_fingerprint"):
        assert own[name] == reference[name]
    for column in ("train/loss", "train/mean_loss", "train/top1", "val/loss", "val/top1", "val/top5", "lr"):
        mine, theirs = logged(by_graphs, column), logged(by_fit, column)[: len(logged(by_graphs, column))]
        assert [step for step, _ in mine] == [step for step, _ in theirs]
        assert [value for _, value in mine] == pytest.approx([value for _, value in theirs], rel=1e-4)


def test_the_weights_are_those_of_fit_and_are_read_as_any_others(by_graphs: Path, by_fit: Path) -> None:
    paths = [next(runs_dir.glob("*-acb-*/*/checkpoints/last.ckpt")) for runs_dir in (by_graphs, by_fit)]
    own, reference = (load_network(path)[0].state_dict() for path in paths)
    torch.testing.assert_close(own, reference, rtol=1e-4, atol=1e-4)
    again = ImageClassifier.load_from_checkpoint(paths[0]).net.state_dict()
    torch.testing.assert_close(again, own, rtol=0, atol=0)
    fused = [load_fused(path.parent.parent / "fused.safetensors").state_dict() for path in paths]
    torch.testing.assert_close(*fused, rtol=1e-4, atol=1e-4)
    assert not list(by_graphs.rglob("graphs*.ckpt"))
    assert not list(by_graphs.rglob("UNFINISHED"))


def test_the_report_has_them(by_graphs: Path, by_fit: Path) -> None:
    grid = json.loads((by_graphs / "reproduce" / "digits" / "results.json").read_text())["grids"]["digits"]
    assert grid["runs_finished"] == 2
    assert set(grid["pruning"]) == {"resnet8/plain", "resnet8/acb"}
    (reference,) = summaries(by_fit).values()
    (figure,) = [
        figure
        for figure in grid["figures"]
        if (figure["variant"], figure["measure"]) == ("acb", "rotation/original/top1")
    ]
    assert figure["percent"]["by_seed"]["3"] == pytest.approx(100 * reference["rotation"]["original/top1"])


def test_a_grid_that_was_killed_goes_on_at_an_epoch(
    by_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = []

    def killed(trainings: Sequence[NetworkTraining]) -> None:
        epochs.append(trainings[0].epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt
        train_epoch(trainings)

    monkeypatch.setattr(graphs, "train_epoch", killed)
    monkeypatch.setattr(graphs, "_CHECKPOINT_SECONDS", 0)
    options = ("--variants", "acb", "--engine", "graphs", "--at_once", "1")
    assert reproduce(tmp_path, *options) == 130
    assert "1 networks side by side on the CPU" in capsys.readouterr().out
    (folder,) = tmp_path.glob("digits-*/*")
    assert json.loads((tmp_path / "reproduce/digits/results.json").read_text())["grids"]["digits"]["runs_finished"] == 0
    assert reproduce(tmp_path, *options) == 0
    assert epochs == [0, 1, 1]
    assert list(tmp_path.glob("digits-*/*")) == [folder]
    own, whole = (summaries(path)["digits-resnet8-acb-seed3"] for path in (tmp_path, by_graphs))
    assert own["metrics"] == whole["metrics"]
    assert own["epochs"] == 2
    for column in ("train/loss", "val/loss"):
        assert logged(tmp_path, column) == logged(by_graphs, column)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--variants", "acb", "--trainer.gradient_clip_val", "1"), "--trainer.gradient_clip_val 1"),
        (("--variants", "acb", "--trainer.precision", "16-mixed"), "--trainer.precision 16-mixed"),
        (("--variants", "acb", "--model.compile", "true"), "--model.compile"),
        (("--variants", "acb", "--data.drop_last", "false"), "--data.drop_last false"),
        (("--variants", "acb", "--trainer.devices", "2"), "--trainer.devices 2"),
        (("--variants", "acb", "--trainer.accelerator", "tpu"), "got --trainer.accelerator tpu"),
        (("--variants", "acb", "--trainer.deterministic", "true"), "--trainer.deterministic True"),
        (("--variants", "acb", "--trainer.callbacks+", "LateFuse"), "callback LateFuse"),
        (("--variants", "acb", "--select", "best"), "--checkpoint.monitor"),
        (("--variants", "acb", "--model.optimizer", "Adam"), "must be torch.optim.SGD, got Adam"),
    ],
)
def test_what_only_fit_does_is_refused_by_name(
    options: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path, *options, "--engine", "graphs") == 1
    error = capsys.readouterr().err
    assert named in error
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert graphs._device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator gpu: PyTorch sees no CUDA device"):
        graphs._device("gpu")


def test_a_network_whose_loss_is_not_finite_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = SettingsParser()
    plan = {}
    for lr, variant in (("1e30", "plain"), ("0.1", "acb")):
        fit = ("--trainer.accelerator", "cpu", "--data.image_size", "8", "--model.optimizer.init_args.lr", lr)
        options = Options(("digits",), ("resnet8",), (variant,), (3,), epochs=1, runs_dir=tmp_path, fit=fit)
        (plan[variant],) = make_plan(options, parser)["digits"][1]
    failed = graphs.run_side_by_side(list(plan.values()), Console(width=200), at_once=2)
    assert failed == {"digits-resnet8-plain-seed3": 1}
    assert [run.state() for run in plan.values()] == ["unfinished", "finished"]
    assert "digits-resnet8-plain-seed3: failed: the loss is" in capsys.readouterr().out
