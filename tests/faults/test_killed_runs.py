"""Runs killed by SIGKILL and started again by the same command end with the same bits as one that was left alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

# Where a run can die: in a step, in the middle of an epoch, while it validates, while a checkpoint is written (before
# the sync, between the renames), at the end of training, while it fuses, tests and writes its summary.
MOMENTS: list[list[Any]] = [
    ["at", "acnet_pl.modules:ImageClassifier.training_step", 3],
    ["at", "acnet_pl.modules:ImageClassifier.training_step", 7],
    ["at", "acnet_pl.modules:ImageClassifier.validation_step", 1],
    ["at", "os:fsync", 8],
    ["at", "pathlib:Path.replace", 3],
    ["at", "acnet_pl.callbacks:FuseOnFitEnd.on_fit_end", 1],
    ["at", "acnet_pl.deploy:save_file", 1],
    ["at", "acnet_pl.modules:ImageClassifier.test_step", 1],
    ["at", "acnet_pl.cli.lightning:write_summary", 1],
]

# Functions whose calls are the phases of a run, and how many of them there are while it trains and fuses.
PHASES = {
    "a step": ("pytorch_lightning.loops.training_epoch_loop:_TrainingEpochLoop.advance", 33),
    "validation": ("pytorch_lightning.loops.evaluation_loop:_EvaluationLoop.run", 3),
    "the writing of a checkpoint": ("acnet_pl.checkpoint:AtomicCheckpointIO.save_checkpoint", 9),
    "fusing": ("acnet_pl.callbacks:FuseOnFitEnd.on_fit_end", 1),
}


def test_a_run_that_dies_again_and_again(mortal: Any, undisturbed: Any, tmp_path: Path) -> None:
    expected, _ = undisturbed
    for death in MOMENTS:
        mortal.run(tmp_path, death=death)
    mortal.run(tmp_path)
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    type(expected)(run).assert_same_as(expected)


@pytest.mark.parametrize(
    "option",
    [
        (),
        pytest.param(("--trainer.accumulate_grad_batches", "2"), marks=pytest.mark.faults),
        pytest.param(("--trainer.max_steps", "20"), marks=pytest.mark.faults),
    ],
)
def test_the_weights_with_the_best_metric(
    option: tuple[str, ...], mortal: Any, undisturbed: Any, tmp_path: Path
) -> None:
    # ModelCheckpoint's own files survive, too: its best is never gone before a checkpoint refers to the better one.
    options = ("--checkpoint.monitor", "val/loss", "--checkpoint.save_top_k", "1", *option)
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    mortal.run(tmp_path / "alone", *options)
    # Dies between writing a new best and the checkpoint that refers to it, and while the best is fused.
    mortal.run(tmp_path / "killed", *options, death=["at", "pytorch_lightning:Trainer.save_checkpoint", 4])
    mortal.run(tmp_path / "killed", *options, death=["at", "acnet_pl.deploy:save_file", 1])
    mortal.run(tmp_path / "killed", *options)
    alone, killed = (
        type(undisturbed[0])(run) for name in ("alone", "killed") for run in (tmp_path / name).glob("runs/*/*")
    )
    killed.assert_same_as(alone)
    assert any("epoch=" in name for name in alone.files)
    assert alone.summary["fused"]["weights"] == "best"


@pytest.fixture(scope="module")
def seconds(mortal: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """How long a call of each phase's function takes."""
    folder = tmp_path_factory.mktemp("measured")
    answer = mortal.ask(folder, ["measure", *(function for function, _ in PHASES.values())])
    measured = answer["measured"]
    assert isinstance(measured, dict)
    return measured


@pytest.mark.faults
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_killed_at_random_moments_of_a_phase(
    phase: str, seconds: dict[str, float], mortal: Any, undisturbed: Any, tmp_path: Path
) -> None:
    expected, _ = undisturbed
    function, calls = PHASES[phase]
    inside = kills = 0
    while inside < 5:  # on a busy machine it is over, now and then, before the signal comes
        folder = tmp_path / str(kills)
        folder.mkdir()
        draw = random.Random(f"{phase}/{kills}")
        death = ["within", function, draw.randint(1, calls), draw.random() * seconds[function]]
        inside += mortal.ask(folder, death)["inside"]
        kills += 1
        output, _ = mortal.run(folder)
        assert "Going on with the run" in output
        (run,) = (folder / "runs" / "mortal").iterdir()
        type(expected)(run).assert_same_as(expected)
        assert kills < 20
    print(f"{phase}: killed {kills} runs, {inside} of them before it was over; all ended with the same bits")


@pytest.mark.faults
@pytest.mark.parametrize("number", range(20))
def test_a_run_killed_at_a_random_moment(number: int, mortal: Any, undisturbed: Any, tmp_path: Path) -> None:
    expected, seconds = undisturbed
    # Stratified, so that twenty moments cover the whole of the run, start and end included.
    moment = (number + random.Random(number).random()) / 20 * seconds
    mortal.run(tmp_path, death=["after", moment])
    runs = tmp_path / "runs" / "mortal"
    if not [run for run in runs.glob("*/summary.json") if not (run.parent / "UNFINISHED").exists()]:
        mortal.run(tmp_path)
    # Killed between making its folder and keeping its configuration there, a run has nothing to go on with.
    (run,) = [run for run in runs.iterdir() if (run / "config.yaml").exists()]
    type(expected)(run).assert_same_as(expected)
