"""All callbacks together on a LightningModule that knows nothing of acnet_pl, in two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.people import COUNT, OwnDicts, loader

from acnet_pl import load_fused

SCRIPT = """
import json, sys, warnings

import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from tests.people import OwnDicts, loader, trainer

from acnet_pl import callbacks as c
from acnet_pl.loggers import MetricsCSV

warnings.simplefilter("ignore")
torch.manual_seed(0)
check, rotation, fuse, confusion = c.EquivalenceCheck(), c.RotationRobustness(), c.FuseOnFitEnd(), c.ConfusionMatrix()
watch = [c.NonFiniteCheck(skip=1), c.KernelMagnitude(1), c.RunCheckpoint(), c.EpochTimer(), c.LearningRate()]
run = trainer(
    ".", check, rotation, EMAWeightAveraging(decay=0.5), c.LateFuse(1), fuse, confusion, *watch,
    devices=2, strategy="ddp", logger=MetricsCSV("."), use_distributed_sampler=False,
)
model = OwnDicts()
run.fit(model, loader(OwnDicts), loader(OwnDicts))
(figures,) = run.test(model, loader(OwnDicts), verbose=False)
if run.is_global_zero:
    torch.save(model.state_dict(), "model.pt")
    counts = confusion.result.tolist()
    print(json.dumps({"check": check.result.as_dict(), "rotation": rotation.result.as_dict(), "counts": counts}))
"""


def test_two_processes(tmp_path: Path, processes: Callable[..., Any]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    first, second = processes([tmp_path / "train.py"], tmp_path)
    assert first.returncode == second.returncode == 0, (first.stderr + second.stderr)[-3000:]
    told = json.loads(first.stdout.splitlines()[-1])
    assert told["check"]["samples"] == told["rotation"]["samples"] == 2 * 2 * COUNT
    assert 0 < told["check"]["max_rel_difference"] < 1e-5
    counts = torch.tensor(told["counts"])
    assert counts.sum() == 2 * 2 * COUNT
    assert told["rotation"]["original/top1"] == pytest.approx((counts.diagonal().sum() / counts.sum()).item())

    model = OwnDicts()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))  # fused during training
    fused = load_fused(tmp_path / "fused.safetensors", into=model.model)
    model.eval()
    for batch in loader(OwnDicts, 1):
        with torch.no_grad():
            torch.testing.assert_close(fused(batch["image"]), model.model(batch["image"]), rtol=1e-4, atol=1e-5)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
