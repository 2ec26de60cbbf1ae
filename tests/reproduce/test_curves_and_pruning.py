"""The course of a training from its metrics.csv, and Fig. 5 over several networks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acnet_pl.analysis import PruningCurve
from acnet_pl.analysis.pruning import DEFAULT_RATIOS
from acnet_pl.reproduce.curves import read_curve
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.pruning import stored_pruning, summarize
from acnet_pl.reproduce.run_result import RunResult
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


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val/top1\n0,0.5\n", encoding="utf-8-sig")
    assert [one.validation_top1 for one in read_curve(tmp_path / "metrics.csv", 2)] == [0.5]


def test_a_training_that_diverged_has_a_curve(tmp_path: Path) -> None:
    rows = ["epoch,train/loss,val/loss", "0,inf,nan", "0,-inf,", "1,2.0,0.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    first, second = read_curve(tmp_path / "metrics.csv", 2)
    assert first.train_loss is not None
    assert math.isnan(first.train_loss)
    assert second.train_loss == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"inf,0.5", "`epoch` is inf, expected a whole number from 0"),
        (b"nan,0.5", "`epoch` is nan, expected"),
        (b"-1,0.5", "`epoch` is -1, expected"),
        (b"0.5,0.5", "`epoch` is 0.5, expected"),
        (b"first,0.5", "`epoch` is 'first', expected a number"),
        (b"0,high", "`train/loss` is 'high', expected a number"),
        (b"0,1e308\n0,1e308", "`train/loss` is 1e308, expected a number up to 1e+38"),
        (b"0," + b"1" * 200_000, "field larger than field limit"),
        (b"0,0.\0005", "("),  # a NUL: versions of Python differ in what they say
        (b"0,0.5\xff", "can't decode byte 0xff"),
    ],
)
def test_a_damaged_table_is_named(row: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"epoch,train/loss\n" + row + b"\n")
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        read_curve(tmp_path / "metrics.csv", 2)
    text = str(refused.value)
    assert text.startswith(f"{tmp_path}/metrics.csv is no table of a training's figures (")
    assert "move it away" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        *({"accuracies": [[0.5]]}, {"accuracies": [[37.5], [0.5]]}, {"accuracies": [["x"], [0.5]]}, {"ratios": [2, 3]}),
        *({"ratios": 3}, {"seeds": {}}, {"where": ["corner"]}, {"where": "elsewhere"}, None, 5),
    ],
)
def test_a_damaged_pruning_curve_is_computed_anew(change: Any, tmp_path: Path) -> None:
    whole = {"where": "corner", "ratios": DEFAULT_RATIOS[:2], "seeds": [0], "accuracies": [[0.5], [0.25]]}
    evaluated = {"precision": "float32", "ratios": list(DEFAULT_RATIOS)}
    for curve in (whole, {**whole, **change} if isinstance(change, dict) else change):
        (tmp_path / "pruning.json").write_text(json.dumps({"evaluated": evaluated, "curves": [curve]}))
        assert [one.accuracies for one in stored_pruning(tmp_path, 1)] == [((0.5,), (0.25,))] * (curve is whole)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"evaluated": 1, "evaluated": 2}', "[" * 9999])
def test_a_file_without_pruning_curves(content: str, tmp_path: Path) -> None:
    (tmp_path / "pruning.json").write_text(content)
    assert stored_pruning(tmp_path, 1) == []


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
