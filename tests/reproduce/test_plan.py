from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acnet_pl.reproduce.grid import Run
from acnet_pl.reproduce.plan import Options, PlannedRun, make_plan
from acnet_pl.reproduce.settings import EXPERIMENTS, SettingsParser, differences, fit_arguments, settings_of
from acnet_pl.reproduce.summary_file import read_summary, summary_fault


def plan_one(tmp_path: Path, parser: SettingsParser, **options: Any) -> PlannedRun:
    options = {"models": ("cifar_quick",), "variants": ("plain",), "seeds": (0,), **options}
    ((_, runs),) = make_plan(Options(("table1",), runs_dir=tmp_path, **options), parser).values()
    (run,) = runs
    return run


def test_a_run_is_missing_unfinished_then_finished(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    run = plan_one(tmp_path, parser, epochs=2)
    assert (run.state(), run.folder()) == ("missing", None)
    begun = fabricate(run)
    assert (run.state(), run.folder()) == ("unfinished", begun)
    done = fabricate(run, 0.8, "2026-01-02T00-00-00")
    fabricate(run, None, "2026-01-03T00-00-00")
    assert (run.state(), run.folder()) == ("finished", done)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"folder": "x"}', '{"metrics": []}', '{"metrics": {"test/top1": "high"}}'),
        *('{"metrics": {}, "rotation": 3}', '{"metrics": {}, "epochs": "12"}', "[" * 9999),
        *('{"metrics": {}, "versions": "new"}', '{"metrics": {}, "fused": {"parameters_folded": [1]}}'),
        b'{"metrics": {}}\xff',
    ],
)
def test_a_damaged_summary_is_not_a_finished_run(
    content: str | bytes, tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    run = plan_one(tmp_path, parser, epochs=2)
    path = fabricate(run, 0.8) / "summary.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run.state() == "unfinished"
    assert summary_fault(path.parent)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ('"metrics": {"test/top1": 37.5}', "`metrics/test/top1` is 37.5, expected an accuracy from 0 to 1"),
        ('"metrics": {"test/top1": NaN}', "`metrics/test/top1` is nan, expected an accuracy"),
        ('"metrics": {"val/top5": -3}', "`metrics/val/top5` is -3, expected an accuracy"),
        ('"rotation": {"rotate_90/top1": Infinity}', "`rotation/rotate_90/top1` is inf, expected an accuracy"),
        ('"equivalence": {"fused_accuracy": 1.5}', "`equivalence/fused_accuracy` is 1.5, expected an accuracy"),
        (f'"metrics": {{"test/top1": 1{"0" * 400}}}', "`metrics/test/top1` is an integer of 1329 bits"),
        (f'"metrics": {{"test/loss": 1{"0" * 400}}}', "`metrics/test/loss` is an integer of 1329 bits"),
        (f'"metrics": {{"test/top1": 1{"0" * 5000}}}', "Exceeds the limit"),
        ('"rotation": {"samples": -1}', "`rotation/samples` is -1, expected a number from 0"),
        ('"training_seconds": NaN', "`training_seconds` is nan, expected a number from 0"),
        ('"engine": ["graphs"]', "`engine` is a list, expected names and values"),
        ('"engine": "graphs"', "`engine` is a str, expected"),
        ('"versions": {"torch": {"cuda": 1}}', "`versions/torch` is a dict, expected text"),
        ('"epochs": 2, "epochs": 3', "it gives 'epochs' twice"),
        ('"metrics": {"test/top1": 0.1, "test/top1": 0.9}', "it gives 'test/top1' twice"),
    ],
)
def test_figures_that_cannot_be_are_left_out(changes: str, fault: str, tmp_path: Path) -> None:
    metrics = "" if '"metrics"' in changes else '"metrics": {}, '
    (tmp_path / "summary.json").write_text(f"{{{metrics}{changes}}}")
    assert read_summary(tmp_path) is None
    assert fault in (summary_fault(tmp_path) or "")


def test_figures_at_their_bounds_are_taken(tmp_path: Path) -> None:
    content = '{"metrics": {"test/top1": 0, "val/top1": 1.0, "test/loss": NaN}, "engine": {"name": "graphs"}}'
    (tmp_path / "summary.json").write_text(content)
    summary = read_summary(tmp_path)
    assert summary is not None
    assert summary["metrics"]["val/top1"] == 1
    assert summary_fault(tmp_path) is None
    assert summary_fault(tmp_path / "missing") is None


def test_a_run_with_other_settings_is_not_taken_for_this_one(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    short, longer = plan_one(tmp_path, parser, epochs=2), plan_one(tmp_path, parser, epochs=3)
    assert short.run.name == longer.run.name
    folder = fabricate(short, 0.8)
    assert (short.state(), longer.state()) == ("finished", "missing")
    assert longer.others()[folder]["trainer.max_epochs"] == (2, 3)


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        (("data", "init_args", "batch_size"), True),
        (("model", "optimizer", "init_args", "lr"), True),
        (("trainer", "precision"), True),
        (("seed_everything",), True),
        (("trainer", "enable_progress_bar"), False),
        (("trainer", "devices"), False),
        (("data", "init_args", "pin_memory"), False),
        (("runs_dir",), False),
        (("wandb", "project"), False),
    ],
)
def test_what_decides_the_numbers_is_compared(
    change: tuple[str, ...], matters: bool, tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    run = plan_one(tmp_path, parser, epochs=2)
    config: Any = copy.deepcopy(dict(run.config))
    part = config
    for key in change[:-1]:
        part = part[key]
    part[change[-1]] = 7
    fabricate(run, 0.8, config=config)
    assert (run.state() == "missing") == matters


@pytest.mark.parametrize(
    ("callback", "matters"),
    [
        ({"class_path": "acnet_pl.callbacks.LateFuse", "init_args": {"epoch": 0.25}}, True),
        ({"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss"}}, True),
        ({"class_path": "acnet_pl.callbacks.KernelMagnitude"}, False),
        ({"class_path": "pytorch_lightning.callbacks.DeviceStatsMonitor"}, False),
    ],
)
def test_of_callbacks_those_are_compared_that_may_change_the_training(
    callback: dict[str, Any], matters: bool, tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path]
) -> None:
    run = plan_one(tmp_path, parser, epochs=2)
    fabricate(run, 0.8, config={**run.config, "trainer": {**run.config["trainer"], "callbacks": [callback]}})
    assert (run.state() == "missing") == matters


def test_a_class_is_the_same_under_the_name_of_its_package_and_of_its_module() -> None:
    assert not differences(
        {"model.conv.class_path": "acnet_pl.nn.ACBConv"}, {"model.conv.class_path": "acnet_pl.nn.conv.ACBConv"}
    )
    assert differences(
        {"model.conv.class_path": "acnet_pl.nn.ACBConv"}, {"model.conv.class_path": "acnet_pl.nn.PlainConv"}
    )


def test_fewer_epochs_move_the_steps_of_the_schedule_in_proportion(tmp_path: Path, parser: SettingsParser) -> None:
    run = plan_one(tmp_path, parser, epochs=20)
    schedule = run.config["model"]["schedule"]["init_args"]
    assert (schedule["milestones"], schedule["warmup_epochs"]) == ([5.0, 10.0, 15.0], 0.5)
    assert run.departures["trainer.max_epochs"] == (200, 20)
    assert set(run.departures) == {
        "trainer.max_epochs",
        "model.schedule.init_args.milestones",
        "model.schedule.init_args.warmup_epochs",
    }


def test_what_the_user_adds_is_named_as_a_departure(tmp_path: Path, parser: SettingsParser) -> None:
    run = plan_one(tmp_path, parser, fit=("--trainer.precision", "bf16-mixed", "--data.flip", "false"))
    assert run.departures == {"trainer.precision": (None, "bf16-mixed"), "data.init_args.flip": (True, False)}
    assert plan_one(tmp_path, parser).departures == {}


def test_the_cost_is_three_forward_passes_of_every_image(tmp_path: Path, parser: SettingsParser) -> None:
    run = plan_one(tmp_path, parser, epochs=2)
    # Cifar-quick: 5×5 convolutions at 32×32, 15×15 and 7×7, and two linear layers.
    forward = 25 * (3 * 32 * 32**2 + 32 * 32 * 15**2 + 32 * 64 * 7**2) + 576 * 64 + 64 * 10
    assert run.cost.macs == forward
    assert run.training_macs == 3 * forward * 50_000 * 2
    assert plan_one(tmp_path, parser, fit=("--data", "DigitsDataModule")).training_macs is None


def test_the_cost_of_late_fusing_is_that_of_both_networks(tmp_path: Path, parser: SettingsParser) -> None:
    options = Options(("cheaper",), models=("cifar_quick",), epochs=5, seeds=(0,), runs_dir=tmp_path)
    ((_, runs),) = make_plan(options, parser).values()
    macs = {run.run.variant: run.cost.macs for run in runs}
    cost = {run.run.variant: run.training_macs for run in runs}
    assert macs["acb_late_fuse"] == macs["acb"] > macs["plain"] == macs["acb_scaled"] == macs["acb_norm_after_sum"]
    assert cost["acb_late_fuse"] == 3 * 50_000 * (2 * macs["acb"] + 3 * macs["plain"])
    assert cost["plain"] == cost["acb_scaled"] == cost["acb_norm_after_sum"]


def test_selecting_an_epoch_without_saying_so_is_refused(tmp_path: Path, parser: SettingsParser) -> None:
    with pytest.raises(ValueError, match="--select best"):
        plan_one(tmp_path, parser, fit=("--checkpoint.monitor", "val/top1"))


@pytest.mark.parametrize(("option", "value"), [("models", "resnet57"), ("variants", "acb_vertical")])
def test_an_unknown_name_is_answered_with_the_known_ones(
    option: str, value: str, tmp_path: Path, parser: SettingsParser
) -> None:
    with pytest.raises(ValueError, match=r"table1 has (cifar_quick, vgg16|plain, acb)"):
        plan_one(tmp_path, parser, **{option: (value,)})


def test_of_several_grids_those_without_the_model_are_left_out(tmp_path: Path, parser: SettingsParser) -> None:
    options = Options(("table1", "table3", "fig5"), models=("resnet56",), seeds=(0,), runs_dir=tmp_path)
    plan = make_plan(options, parser)
    assert {name: len(runs) for name, (_, runs) in plan.items()} == {"table1": 2, "fig5": 3}
    names = [run.run.name for _, runs in plan.values() for run in runs]
    assert len(set(names)) == 3
    settings = {run.run.name: settings_of(run.config) for _, runs in plan.values() for run in runs}
    assert len(settings) == 3


def test_names_that_no_grid_has_are_refused_and_grids_without_the_variants_left_out(
    tmp_path: Path, parser: SettingsParser
) -> None:
    both = ("table1", "ablations")
    plan = make_plan(Options(both, variants=("acb_border",), seeds=(0,), runs_dir=tmp_path), parser)
    assert list(plan) == ["ablations"]
    with pytest.raises(ValueError, match=r"--variants acb_bordr: table1, ablations have plain, acb,"):
        make_plan(Options(both, variants=("plain", "acb_bordr"), runs_dir=tmp_path), parser)
    with pytest.raises(ValueError, match=r"--models alexnt: table1, ablations have cifar_quick"):
        make_plan(Options(both, models=("resnet56", "alexnt"), runs_dir=tmp_path), parser)
    with pytest.raises(ValueError, match=r"none of table1, ablations has both .*: vgg16, acb_border"):
        make_plan(Options(both, models=("vgg16",), variants=("acb_border",), runs_dir=tmp_path), parser)


def test_fewer_epochs_leave_the_users_own_schedule_alone(tmp_path: Path, parser: SettingsParser) -> None:
    own = plan_one(tmp_path, parser, epochs=20, fit=("--model.schedule.milestones", "[3, 7]"))
    schedule = own.config["model"]["schedule"]["init_args"]
    assert (schedule["milestones"], schedule["warmup_epochs"]) == ([3.0, 7.0], 0.5)
    cosine = plan_one(tmp_path, parser, epochs=20, fit=("--model.schedule", "CosineSchedule"))
    assert cosine.config["model"]["schedule"]["class_path"].endswith("CosineSchedule")
    assert cosine.epochs == 20
    none = plan_one(tmp_path, parser, epochs=20, fit=("--model.schedule", "null"))
    assert none.config["model"]["schedule"] is None


def test_no_class_where_there_was_one_is_a_difference(tmp_path: Path, parser: SettingsParser) -> None:
    run = plan_one(tmp_path, parser, fit=("--model.schedule", "null"))
    name = "acnet_pl.modules.StaircaseSchedule"
    assert run.departures == {"model.schedule": (name, None)}
    recipe = plan_one(tmp_path, parser)
    assert differences(run.settings, recipe.settings) == {"model.schedule": (None, name)}
    assert not differences(run.settings, run.settings)


def test_a_configuration_that_the_package_has_not_is_the_current_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "acb"):
        path = tmp_path / "experiments/conv" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    run = Run("a", "resnet8", "mine", 0, ("digits/resnet8.yaml", "conv/mine.yaml", "conv/acb.yaml"))
    digits, mine, acb = fit_arguments(run)[2:7:2]
    assert mine == "experiments/conv/mine.yaml"
    assert Path(digits).samefile(EXPERIMENTS / "digits/resnet8.yaml")
    assert Path(acb).samefile(EXPERIMENTS / "conv/acb.yaml")
