"""`fit` on two processes: one run folder, one fused file, and every image counted once."""

import json

import pytest
import torch

import acnet_pl
from acnet_pl.data import DigitsDataModule


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small, process):
    """The runs folder after a run that Lightning started a second time."""
    folder = tmp_path_factory.mktemp("two")
    command = ["-m", "acnet_pl", "fit", *small, "--trainer.max_epochs", "1", "--name", "two"]
    command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.eval_batch_size", "64"]
    done = process(command, folder, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "runs"


def test_rank_zero_alone_writes(runs):
    (folder,) = (runs / "two").iterdir()
    assert [path.name for path in runs.iterdir()] == ["two"]
    assert len(list(folder.rglob("*.safetensors"))) == 1
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


def test_every_image_is_counted_once(runs):
    (folder,) = (runs / "two").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["equivalence"]["samples"] == 300
    assert summary["rotation"]["samples"] == 300
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    network = acnet_pl.load_fused(folder / "fused.safetensors")
    with torch.no_grad():
        predicted = network(data.normalize(data.test_set.images)).argmax(1)
    accuracy = (predicted == data.test_set.labels).double().mean().item()
    assert summary["rotation"]["original/top1"] == pytest.approx(accuracy, abs=0.0034)
    assert summary["metrics"]["test/top1"] == pytest.approx(accuracy, abs=0.0034)
