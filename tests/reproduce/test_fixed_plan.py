"""Seeds and epochs are recorded before the first run, and a report says when they were changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acnet_pl.reproduce.fixed_plan import fix_plan, read_plans, remarks
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser


@pytest.fixture
def plan(tmp_path: Path, parser: SettingsParser) -> Callable[..., Any]:
    def make(seeds: tuple[int, ...], epochs: int = 2) -> Any:
        return make_plan(Options(("table1",), ("cifar_quick",), (), seeds, epochs=epochs, runs_dir=tmp_path), parser)

    return make


def said(tmp_path: Path, plan: Any) -> list[str]:
    grid, runs = plan["table1"]
    return remarks(read_plans(tmp_path), grid, runs)


def test_what_is_fixed_stays_and_what_is_added_is_marked(
    tmp_path: Path, plan: Callable[..., Any], fabricate: Callable[..., Path]
) -> None:
    fixed = plan((0, 1))
    assert said(tmp_path, fixed) == [
        "Cifar-quick: the number of seeds and epochs was not recorded before the first run."
    ]
    fix_plan(tmp_path, fixed)
    (one,) = said(tmp_path, fixed)
    assert one.startswith("Cifar-quick: 2 seeds (0, 1), 2 epochs, fixed on 20")
    assert one.endswith("before any run had finished.")

    before = (tmp_path / "plan.json").read_text()
    fix_plan(tmp_path, fixed)
    fix_plan(tmp_path, plan((1,)))  # one of an agent's runs
    assert (tmp_path / "plan.json").read_text() == before
    assert "MIXED. seed 0 of the fixed ones are left out" in said(tmp_path, plan((1,)))[1]

    for run in fixed["table1"][1]:
        fabricate(run, 0.8)
    fix_plan(tmp_path, plan((0, 1, 5)))
    first, added = said(tmp_path, plan((0, 1, 5)))
    assert first == one
    assert "MIXED. seed 5 added on 20" in added
    assert "when 4 runs had finished" in added
    assert said(tmp_path, fixed) == [one]


def test_other_epochs_are_another_plan_and_named(tmp_path: Path, plan: Callable[..., Any]) -> None:
    fix_plan(tmp_path, plan((0, 1), epochs=1))
    fix_plan(tmp_path, plan((0, 1, 2), epochs=2))
    fixed, others = said(tmp_path, plan((0, 1, 2), epochs=2))
    assert "3 seeds (0, 1, 2), 2 epochs" in fixed
    assert others == "Cifar-quick: also begun with 1 epochs."


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"plans": [{"grid": "table1"}]})])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is no record"):
        read_plans(tmp_path)
