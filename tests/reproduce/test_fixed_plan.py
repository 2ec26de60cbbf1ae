"""Seeds and epochs are recorded before the first run, and a report says when they were changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acnet_pl.reproduce.fixed_plan import fix_plan, read_plans, remarks
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser


@pytest.fixture
def plan(tmp_path: Path, parser: SettingsParser) -> Callable[..., Any]:
    def make(seeds: tuple[int, ...], epochs: int = 2, variants: tuple[str, ...] = ()) -> Any:
        options = Options(("table1",), ("cifar_quick",), variants, seeds, epochs=epochs, runs_dir=tmp_path)
        return make_plan(options, parser)

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
    assert one.endswith("before any run of theirs had finished.")

    before = (tmp_path / "plan.json").read_text()
    fix_plan(tmp_path, fixed)
    fix_plan(tmp_path, plan((1,)))  # one of an agent's runs
    assert (tmp_path / "plan.json").read_text() == before
    assert "MIXED. seed 0 of the planned ones are left out" in said(tmp_path, plan((1,)))[1]

    for run in fixed["table1"][1]:
        fabricate(run, 0.8)
    fix_plan(tmp_path, plan((0, 1, 5)))
    first, added, unfinished = said(tmp_path, plan((0, 1, 5)))
    assert first == one
    assert "MIXED. seed 5 added on 20" in added
    assert "when 2 runs of theirs had finished" in added
    assert "UNFINISHED. seed 5 of the planned ones" in unfinished
    assert said(tmp_path, fixed)[0] == one
    assert "MIXED. seed 5 of the planned ones are left out here" in said(tmp_path, fixed)[-1]


def test_each_variant_has_a_plan_of_its_own(
    tmp_path: Path, plan: Callable[..., Any], fabricate: Callable[..., Path]
) -> None:
    fix_plan(tmp_path, plan((0, 1, 2), variants=("plain",)))
    for run in plan((0, 1, 2), variants=("plain",))["table1"][1]:
        fabricate(run, 0.8)
    assert said(tmp_path, plan((0, 1, 2)))[1:] == [
        "Cifar-quick, ACNet: the number of seeds and epochs was not recorded before the first run."
    ]
    fix_plan(tmp_path, plan((0, 1), variants=("plain", "acb")))
    first, second, none = said(tmp_path, plan((0, 1, 2)))
    assert none.startswith("Cifar-quick, ACNet: UNFINISHED. None of the planned runs is finished")
    assert first.startswith("Cifar-quick, plain: 3 seeds (0, 1, 2), 2 epochs, fixed on 20")
    assert second.startswith("Cifar-quick, ACNet: 2 seeds (0, 1), 2 epochs, fixed on 20")
    assert second.endswith("before any run of theirs had finished.")
    blocks = plan((0, 1, 2), variants=("acb",))["table1"][1]
    fabricate(blocks[0], 0.8)
    unfinished = said(tmp_path, plan((0, 1, 2)))[2]
    assert unfinished.startswith("Cifar-quick, ACNet: UNFINISHED. seed 1 of the planned ones")
    fabricate(blocks[1], 0.8)
    assert len(said(tmp_path, plan((0, 1, 2)))) == 2
    fabricate(blocks[2], 0.8)
    assert said(tmp_path, plan((0, 1, 2)))[2].startswith("Cifar-quick, ACNet: MIXED. seed 2 added later")
    only = said(tmp_path, plan((0, 1, 2), variants=("plain",)))
    assert only[-1].startswith("Cifar-quick: MIXED. acb planned too, and left out here")
    assert said(tmp_path / "elsewhere", plan((0, 1))) == [
        "Cifar-quick: the number of seeds and epochs was not recorded before the first run."
    ]
    fix_plan(tmp_path / "elsewhere", plan((0, 1)))
    assert "Cifar-quick: LATE. 2 seeds (0, 1), 2 epochs, fixed on 20" in said(tmp_path / "elsewhere", plan((0, 1)))[0]


def test_a_plan_of_the_first_format_holds_for_variants_without_another(
    tmp_path: Path, plan: Callable[..., Any]
) -> None:
    fix_plan(tmp_path, plan((0, 1), variants=("plain",)))
    content = json.loads((tmp_path / "plan.json").read_text())
    (own,) = content["plans"]
    del own["variant"]
    own |= {"runs": 4, "seeds": [0, 1, 2]}
    (tmp_path / "plan.json").write_text(json.dumps({"format": "acnet_pl.plan/1", "plans": [own]}))
    (one,) = said(tmp_path, plan((0, 1, 2)))
    assert one.startswith("Cifar-quick: 3 seeds (0, 1, 2), 2 epochs, fixed on 20")
    assert one.endswith("before any run had finished.")
    fix_plan(tmp_path, plan((0, 1, 2, 3), variants=("acb",)))
    first, second = said(tmp_path, plan((0, 1, 2, 3)))
    assert first.startswith("Cifar-quick, plain: 3 seeds (0, 1, 2)")
    assert second.startswith("Cifar-quick, ACNet: 4 seeds (0, 1, 2, 3)")


def test_finished_seeds_in_no_plan_are_marked(
    tmp_path: Path, plan: Callable[..., Any], fabricate: Callable[..., Path]
) -> None:
    fix_plan(tmp_path, plan((0, 1)))
    more = plan((0, 1, 2, 3, 4))
    assert len(said(tmp_path, more)) == 1, "no run of the others is finished"
    for run in more["table1"][1]:
        if run.run.seed < 4:
            fabricate(run, 0.8)
    assert "MIXED. 2 seeds (2, 3) added later, in no recorded plan" in said(tmp_path, more)[1]


def test_other_epochs_are_another_plan_and_named(tmp_path: Path, plan: Callable[..., Any]) -> None:
    fix_plan(tmp_path, plan((0, 1), epochs=1))
    fix_plan(tmp_path, plan((0, 1, 2), epochs=2))
    fixed, others = said(tmp_path, plan((0, 1, 2), epochs=2))
    assert "3 seeds (0, 1, 2), 2 epochs" in fixed
    assert others == "Cifar-quick: ALSO PLANNED with 1 epochs."
    content = json.loads((tmp_path / "plan.json").read_text())
    content["plans"].append({**content["plans"][-1], "settings": "others"})
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert any("ALSO PLANNED under other settings" in one for one in said(tmp_path, plan((0, 1, 2), epochs=2)))


def test_seeds_that_are_added_before_any_run_is_finished_are_fixed(tmp_path: Path, plan: Callable[..., Any]) -> None:
    """As by an agent that starts one seed after another."""
    for seeds in ((0,), (1,), (2,), (0, 1, 2)):
        fix_plan(tmp_path, plan(seeds))
    (one,) = said(tmp_path, plan((0, 1, 2)))
    assert one.startswith("Cifar-quick: 3 seeds (0, 1, 2), 2 epochs, fixed on 20")


def test_added_seeds_that_are_not_finished_are_named(
    tmp_path: Path, plan: Callable[..., Any], fabricate: Callable[..., Path]
) -> None:
    fix_plan(tmp_path, plan((0, 1)))
    for run in plan((0, 1))["table1"][1]:
        fabricate(run, 0.8)
    fix_plan(tmp_path, plan((0, 1, 2, 3)))
    for run in plan((2,))["table1"][1]:
        fabricate(run, 0.8)
    assert any("UNFINISHED. seed 3 of the planned ones" in one for one in said(tmp_path, plan((0, 1, 2, 3))))
    assert any("MIXED. seed 3 of the planned ones are left out" in one for one in said(tmp_path, plan((0, 1, 2))))


WHOLE = {
    **{"grid": "table1", "model": "vgg16", "variant": "acb", "recipe": "article", "epochs": 2, "settings": "{}"},
    **{"seeds": [0, 1], "recorded": "2026-01-01 10:00 UTC", "finished": 0},
}


def damaged(**changes: Any) -> str:
    return json.dumps({"format": "acnet_pl.plan/2", "plans": [{**WHOLE, **changes}]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "its format is '[]', expected 'acnet_pl.plan/2'"),
        ("[" * 9999, "nested too deep"),
        ('{"a": ' * 9999, "nested too deep"),
        (json.dumps({"plans": [WHOLE]}), "its format is 'None', expected"),
        (json.dumps({"format": "acnet_pl.plan/3", "plans": [WHOLE]}), "its format is 'acnet_pl.plan/3', expected"),
        (json.dumps({"format": "acnet_pl.plan/1", "plans": 3}), "it has no list of `plans`"),
        (json.dumps({"format": "acnet_pl.plan/1", "plans": [{}]}), "a plan is '{}', expected grid, model, variant"),
        (json.dumps({"format": "acnet_pl.plan/1", "plans": [[]]}), "a plan is '[]', expected grid, model, variant"),
        ('{"format": "acnet_pl.plan/1", "plans": [], "plans": []}', "it gives 'plans' twice"),
        (damaged(seeds=[]), "`seeds` is '[]', expected a list of integers that differ"),
        (damaged(seeds="ab"), "`seeds` is 'ab', expected"),
        (damaged(seeds=[0, "1"]), "`seeds` is \"[0, '1']\", expected"),
        (damaged(seeds=[[0], [1]]), "`seeds` is '[[0], [1]]', expected"),
        (damaged(seeds=[1, 1]), "`seeds` is '[1, 1]', expected"),
        (damaged(seeds=[True]), "`seeds` is '[True]', expected"),
        (damaged(epochs=[2]), "`epochs` is '[2]', expected an integer from 0"),
        (damaged(epochs="2"), "`epochs` is '2', expected"),
        (damaged(finished=-1), "`finished` is '-1', expected"),
        (damaged(recorded=3), "`recorded` is '3', expected a time such as"),
        (damaged(recorded="zzz"), "`recorded` is 'zzz', expected a time such as"),
        (damaged(model=["vgg16"]), "`model` is \"['vgg16']\", expected text"),
    ],
)
def test_a_damaged_record_is_named(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_plans(tmp_path)
    text = str(refused.value)
    assert text.startswith(f"{tmp_path}/plan.json is no record of seeds and epochs (")
    assert text.endswith("move it away to begin a new one")
    assert len(text.splitlines()) == 1


def test_a_whole_record_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(damaged())
    (plan,) = read_plans(tmp_path)
    assert (plan.seeds, plan.epochs, plan.variant) == ((0, 1), 2, "acb")
