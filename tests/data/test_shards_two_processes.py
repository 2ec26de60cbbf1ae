"""Shards under DDP: every image once in an epoch, and after a resume the rest of the epoch once."""

import json
import runpy
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from acnet_pl.data.class_folders import ClassFolders
from acnet_pl.data.shard_writer import write_shards

pytest.importorskip("litdata")

SCRIPT = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from acnet_pl.data import ImageNetDataModule

class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        self.seen = {"train": [], "val": []}

    def training_step(self, batch):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class Data(ImageNetDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        stage = "train" if self.trainer.training else "val"
        self.trainer.lightning_module.seen[stage].append(batch[2].tolist())
        return super().on_after_batch_transfer(batch, dataloader_idx)

class Save(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 9:
            trainer.save_checkpoint(Path(folder, "step-9.ckpt"))

def fit(name, ckpt_path):
    data = Data(root, 32, 36, batch_size=8, eval_batch_size=8, num_workers=1, seed=0, cache_dir=f"{folder}/cache")
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[] if ckpt_path else [Save()],
    )
    model = Recorder()
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    Path(folder, f"{name}-{trainer.global_rank}.json").write_text(json.dumps(model.seen))

folder, root, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
if devices > 1:
    fit("whole", None)
fit(f"resumed-by-{devices}", f"{folder}/step-9.ckpt")
"""


@pytest.fixture
def shards(tmp_path: Path, write_image_tree: Callable[..., Path]) -> Path:
    """48 training images, 6 steps of 8, and 9 validation images."""
    folders = ClassFolders(write_image_tree(tmp_path / "images", train=16, val=3))
    splits: dict[str, Any] = {name: folders.split(name) for name in ("train", "val")}
    write_shards(splits, folders.class_names, tmp_path / "shards", shard_mb=0.01, workers=1, check=False)
    return tmp_path / "shards"


def test_two_processes_take_each_image_once_also_after_a_resume(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[..., Any]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    # Through a cache, as shards in object storage are.
    arguments = [str(script), str(tmp_path), f"local://{shards}"]
    for done in processes([*arguments, "2"], tmp_path):
        assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", [*arguments, "1"])
    runpy.run_path(str(script))

    def seen(name: str, count: int) -> list[dict[str, list[list[int]]]]:
        return [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(count)]

    def steps(name: str, count: int) -> list[list[int]]:
        shares = (process["train"] for process in seen(name, count))
        return [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]

    whole = steps("whole", 2)
    assert {len(batch) for process in seen("whole", 2) for batch in process["train"]} == {4}
    for epoch in (whole[:6], whole[6:]):
        assert sorted(chain(*epoch)) == list(range(48))
    validated = chain(*(batch for process in seen("whole", 2) for batch in process["val"]))
    assert sorted(validated) == sorted([*range(9)] * 2)

    # Saved after 3 steps of the second epoch: the other 3 follow, by two processes or by one.
    for count in (2, 1):
        assert steps(f"resumed-by-{count}", count) == whole[9:]
