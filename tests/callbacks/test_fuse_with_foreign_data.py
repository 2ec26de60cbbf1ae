from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from acnet_pl import ACBConv, ImageClassifier, load_fused
from acnet_pl.analysis import complexity
from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import FuseOnFitEnd


class Foreign(LightningDataModule):
    """Says nothing of its images but the number of classes, as a property."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @property
    def num_classes(self) -> int:
        return 3

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        images = torch.randn(6, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(images, torch.arange(6) % 3), batch_size=3)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return self.train_dataloader()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("size", [16, 48])
def test_the_cost_is_that_for_the_images_trained_on(size: int, tmp_path: Path) -> None:
    data, fuse = Foreign(size), FuseOnFitEnd()
    model = ImageClassifier(partial(ResNetCifar, depth=8), ACBConv(), num_classes=data.num_classes)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[fuse],
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    assert fuse.result is not None
    assert fuse.result.macs_fused == complexity(load_fused(fuse.result.path), (3, size, size)).macs
    assert fuse.result.macs_trained == complexity(model.net, (3, size, size)).macs
