"""InMemoryDataModule in two real processes: every image where it belongs, none twice, no process left waiting."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from acnet_pl.data import InMemoryDataModule, InMemoryImages

class NumberedImages(InMemoryDataModule):
    num_classes, class_names, image_shape, mean, std = 40, [], (3, 8, 8), (0.5,) * 3, (0.5,) * 3

    def load_training_sets(self):
        return self.draw(40), self.draw(9)

    def load_test_set(self):
        return self.draw(13)

    def draw(self, n):
        return InMemoryImages(torch.arange(n).view(n, 1, 1, 1).expand(n, 8, 8, 3).to(torch.uint8), torch.arange(n))

class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(192, 40))
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch):
        self.seen["train"].append(batch[1].tolist())
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.net(batch[0])
        self.seen["val"].append(batch[1].tolist())

    def test_step(self, batch):
        self.net(batch[0])
        self.seen["test"].append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

devices = int(sys.argv[2])
model = Recorder()
data = NumberedImages(batch_size=8, eval_batch_size=8, seed=0, pad=1, flip=True, drop_last=True, pin_memory=True)
trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
)
trainer.fit(model, data)
trainer.test(model, data, verbose=False)
Path(sys.argv[1], f"{devices}-{trainer.global_rank}.json").write_text(json.dumps(model.seen))
"""


def test_two_processes_see_what_one_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[..., Any]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), "1"])
    runpy.run_path(str(script))
    for done in processes([script, tmp_path, "2"], tmp_path):
        assert done.returncode == 0, done.stderr
    one, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))

    together = [sorted(a + b) for a, b in zip(first["train"], second["train"], strict=True)]
    assert together == [sorted(batch) for batch in one["train"]]
    assert {len(batch) for batch in first["train"]} == {4}

    # 9 = 4 + 1 and 4: the first process has a batch more than the second, and neither waits for the other.
    assert [len(batch) for batch in first["val"]] == [4, 1] * 2
    assert [len(batch) for batch in second["val"]] == [4] * 2
    for stage, expected in (("val", sorted([*range(9)] * 2)), ("test", [*range(13)])):
        assert sorted(label for share in (first, second) for batch in share[stage] for label in batch) == expected
