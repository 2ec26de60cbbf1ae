"""Two processes train on the same global batches as one: the same losses, weights, metrics and files come out.

In float64, with SyncBatchNorm, the two differ only by the order in which the same numbers are summed, a relative error
of some 1e-16 for each operation; 18 steps make less than 1e-13 of it, and 1e-10 is allowed. Wrong semantics show at
once: see the control, which leaves SyncBatchNorm out and has another loss in the fourth digit after one step. In
float32 the same training, at its first epoch's large learning rate, makes 1e-5 of 1e-7 within 5 steps; 1e-4 is allowed,
and what becomes of the weights later is no longer comparable.
"""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch

from acnet_pl.analysis import rotation_logits
from acnet_pl.checkpoint import read_checkpoint
from acnet_pl.data import DigitsDataModule
from acnet_pl.deploy import load_fused

STEPS_PER_EPOCH = 9
FIT = [
    *("fit", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
    *("--checkpoint.monitor", "val/top1", "--checkpoint.mode", "max"),
]
# The longer kernels turn more slowly, so that float32 rounding grows less from step to step.
SHORT = [
    *("fit", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "5", "--trainer.log_every_n_steps", "1"),
    *("--test_after_fit", "false", "--equivalence.enabled", "false", "--model.conv.draw", "fan_out"),
]
FLOAT64 = ["--trainer.precision", "64-true"]
SYNC = ["--trainer.sync_batchnorm", "true"]


@pytest.fixture(scope="module")
def one(launch: Any) -> Any:
    return launch(*FIT, *FLOAT64)


@pytest.fixture(scope="module")
def two(launch: Any) -> Any:
    return launch(*FIT, *FLOAT64, *SYNC, processes=2)


def difference(a: list[float], b: list[float]) -> float:
    """The largest, relative."""
    return max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))


def test_the_loss_curve_is_the_same(one: Any, two: Any) -> None:
    assert len(one.curve("train/loss")) == 2 * STEPS_PER_EPOCH
    assert difference(one.curve("train/loss"), two.curve("train/loss")) < 1e-10


def test_the_fused_weights_are_the_same(one: Any, two: Any) -> None:
    assert one.fused.keys() == two.fused.keys()
    for name, weight in one.fused.items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(two.fused[name], weight, rtol=0, atol=1e-10 * float(weight.abs().max()))


def test_the_trained_weights_and_statistics_are_the_same(one: Any, two: Any) -> None:
    """Also in the checkpoint, whose names are those of the network without SyncBatchNorm."""
    expected, found = (read_checkpoint(run.run / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, two))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10 * largest)


def test_late_fusing_is_the_same(launch: Any) -> None:
    """Statistics are those of all processes, and gradients of the plain network are exchanged as before."""
    fuse = ["--trainer.callbacks+", "acnet_pl.callbacks.LateFuse", "--trainer.callbacks.epoch", "1"]
    options = ["fit", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", "--test_after_fit", "false"]
    options += ["--equivalence.enabled", "false"]
    alone = launch(*options, *FLOAT64, *fuse)
    together = launch(*options, *FLOAT64, *SYNC, *fuse, processes=2)
    assert "Fused" in together.outputs[0]
    assert "net.stem.conv.weight" in read_checkpoint(together.run / "checkpoints" / "last.ckpt")["state_dict"]
    assert len(alone.curve("train/loss")) == 2 * STEPS_PER_EPOCH
    assert difference(alone.curve("train/loss"), together.curve("train/loss")) < 1e-10
    for name, weight in alone.fused.items():
        torch.testing.assert_close(together.fused[name], weight, rtol=0, atol=1e-10 * float(weight.abs().max()))


@pytest.mark.parametrize("name", ["train/top1", "val/loss", "val/top1", "val/top5", "test/top1", "kernels/skeleton"])
def test_a_metric_is_the_same(name: str, one: Any, two: Any) -> None:
    assert len(one.curve(name)) in (1, 2, 3)
    assert two.curve(name) == pytest.approx(one.curve(name), rel=1e-6)  # torchmetrics averages losses in float32


def test_equivalence_and_rotation_are_the_same_and_right(one: Any, two: Any) -> None:
    assert two.summary["rotation"] == one.summary["rotation"]
    checked = two.summary["equivalence"]
    assert (checked["samples"], checked["top1_agreement"]) == (300, 1.0)
    assert checked["max_rel_difference"] < 1e-12
    assert checked["fused_accuracy"] == one.summary["equivalence"]["fused_accuracy"]
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    network = load_fused(two.run / "fused.safetensors")
    with torch.no_grad():
        logits = rotation_logits(network, data.normalize(data.test_set.images).double())
    for transform, outputs in logits.items():
        right = (outputs.argmax(1) == data.test_set.labels).double().mean().item()
        assert two.summary["rotation"][f"{transform}/top1"] == pytest.approx(right)


def test_rank_zero_alone_writes_and_every_result_once(two: Any) -> None:
    first, second = two.written
    assert second == {}
    run = two.run.relative_to(two.folder)
    for name in ("config.yaml", "fused.safetensors", "summary.json"):
        assert first[str(run / name)] == 1, name
    assert {path.name for path in (two.run / "checkpoints").iterdir()} >= {"last.ckpt", "previous.ckpt"}
    assert two.curve("time/epoch") == pytest.approx(two.curve("time/epoch")[:2])  # once for each epoch


def test_rank_zero_alone_reports(two: Any) -> None:
    first, second = two.outputs
    for text in ("parameters in training", "Fused the best weights", "trained vs fused", "Rotate 90°", "Files in"):
        assert first.count(text) == 1, text
        assert text not in second
    assert "It is recommended" not in first + second


def test_predictions_are_the_same_and_written_once(one: Any, two: Any, launch: Any) -> None:
    tables = []
    for run, processes in ((one, 1), (two, 2)):
        path = run.run / "checkpoints" / "last.ckpt"
        done = launch("predict", "--name", "predicted", "--ckpt_path", str(path), *FLOAT64, processes=processes)
        with (done.run / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
        assert sum(written[str(done.run.relative_to(done.folder) / "predictions.csv")] for written in done.written) == 1
    assert [row["index"] for row in tables[0]] == [str(index) for index in range(300)]
    for expected, found in zip(*tables, strict=True):
        assert {key: found[key] for key in ("index", "class")} == {key: expected[key] for key in ("index", "class")}
        assert float(found["p(0)"]) == pytest.approx(float(expected["p(0)"]), rel=1e-4, abs=1e-9)


@pytest.fixture(scope="module")
def short(launch: Any) -> Any:
    return launch(*SHORT)


@pytest.mark.parametrize("launcher", ["slurm", "nodes"])
def test_two_machines_in_float32(launcher: str, short: Any, launch: Any) -> None:
    """A process on each, started by SLURM or by hand with NODE_RANK."""
    two = launch(*SHORT, *SYNC, processes=2, launcher=launcher)
    assert difference(short.curve("train/loss"), two.curve("train/loss")) < 1e-4
    assert two.written[1] == {}
    assert (two.run / "fused.safetensors").is_file()


def test_without_sync_batch_norm_the_curves_part(one: Any, launch: Any) -> None:
    """The control: what these comparisons show when the processes normalise by statistics of their own."""
    two_steps = ["--trainer.max_steps", "2", "--test_after_fit", "false", "--equivalence.enabled", "false"]
    apart = launch(*FIT, *FLOAT64, *two_steps, processes=2)
    assert len(apart.curve("train/loss")) == 2
    assert difference(one.curve("train/loss")[:2], apart.curve("train/loss")[:2]) > 1e-4
