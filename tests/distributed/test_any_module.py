"""All callbacks together on a LightningModule that knows nothing of acnet_pl, in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_two_processes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
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
