"""The course of a training from its metrics.csv, and Fig. 5 over several networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from acnet_pl.analysis import PruningCurve
from acnet_pl.analysis.pruning import DEFAULT_RATIOS
from acnet_pl.reproduce.curves import read_curve
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.pruning import summarize
from acnet_pl.reproduce.results import RunResult
from acnet_pl.reproduce.settings import SettingsParser


def test_the_course_is_that_of_the_epochs(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    options = Options(("table1",), ("cifar_quick",), ("plain",), (0,), epochs=2, runs_dir=tmp_path)
    ((_, (run,)),) = make_plan(options, parser).values()
    assert RunResult.of(run).curve() == []
    fabricate(run, 0.8)
    curve = RunResult.of(run).as_dict()["curve"]
    assert [one["epoch"] for one in curve] == [1, 2]
    assert [one["train_loss"] for one in curve] == [0.75, 0.75]  # the mean of two logged steps
    assert [one["train_top1"] for one in curve] == pytest.approx([0.3, 0.55])
    assert [one["validation_top1"] for one in curve] == pytest.approx([0.4, 0.65])
    assert [one["validation_loss"] for one in curve] == [None, None]


def test_the_course_has_every_curve_of_the_dashboards(tmp_path: Path) -> None:
    names = ("lr", "kernels/skeleton", "equivalence/max_rel_difference", "time/epoch", "val/loss")
    lines = [f"epoch,step,{','.join(names)}", "0,4,0.1,,,,", "0,9,0.05,,,,", "0,9,,0.5,1e-7,2.5,0.75", "1,19,,0.6,,,"]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    first, second = read_curve(tmp_path / "metrics.csv", epochs=2)
    assert (first.learning_rate, first.skeleton_share, first.fused_difference) == (0.05, 0.5, 1e-7)
    assert (first.seconds, first.validation_loss) == (2.5, 0.75)
    assert (second.skeleton_share, second.learning_rate) == (0.6, None)


def test_the_loss_is_that_of_all_steps_where_it_is_recorded(tmp_path: Path) -> None:
    rows = ["epoch,train/loss,train/mean_loss", "0,3.0,", "0,1.0,", "0,,2.25", "1,0.5,"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert [one.train_loss for one in read_curve(tmp_path / "metrics.csv", 2)] == [2.25, 0.5]


def test_the_spread_of_draws_is_told_apart_from_that_of_networks() -> None:
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(0, 1, (3, 2, 5))  # networks, ratios, draws
    curves = [
        PruningCurve("corner", (0.0, 0.13), tuple(range(5)), tuple(map(tuple, network.tolist())))
        for network in accuracies
    ]
    summary = summarize(curves)
    assert (summary.networks, summary.draws) == (3, 5)
    assert summary.mean == pytest.approx(accuracies.mean(axis=(0, 2)))
    assert summary.over_networks == pytest.approx(accuracies.mean(axis=2).std(axis=0, ddof=1))
    assert summary.over_draws == pytest.approx(np.sqrt(accuracies.var(axis=2, ddof=1).mean(axis=0)))
    alone = summarize(curves[:1])
    assert alone.over_networks is None
    assert alone.over_draws == pytest.approx(accuracies[0].std(axis=1, ddof=1))


def test_the_ratios_that_the_article_names_are_among_those_of_fig_5() -> None:
    assert {0.0, 0.13, 0.44} <= set(DEFAULT_RATIOS)
    assert Options(("fig5",)).pruning_seeds == 5  # "repeated five times with different random seeds"
