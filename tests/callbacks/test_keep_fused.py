from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from acnet_pl.callbacks import KeepFused
from acnet_pl.nn import ACBlock


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(ACBlock(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.outputs: dict[str, list[tuple[Tensor, Tensor]]] = {
            stage: [] for stage in ("validation", "test", "predict", "around")
        }

    def look(self) -> None:
        """Evaluate an image before or after the batches, as one does for a picture, with whatever weights are there."""
        with torch.no_grad():
            self.note("around", torch.ones(1, 3, 6, 6))

    on_validation_start = on_validation_epoch_end = on_validation_end = look

    def training_step(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        return loss

    def note(self, stage: str, batch: Tensor) -> None:
        block = self.net[0]
        assert isinstance(block, ACBlock)
        self.outputs[stage].append((block(batch), block.forward_branches(batch)))

    def validation_step(self, batch: Tensor) -> None:
        self.note("validation", batch)

    def test_step(self, batch: Tensor) -> None:
        self.note("test", batch)

    def predict_step(self, batch: Tensor) -> Tensor:
        self.note("predict", batch)
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows with every kernel that a block makes; says whether it was for training."""
    made: list[bool] = []
    original = ACBlock._fuse_frozen

    def counting(self: ACBlock) -> Any:
        made.append(self.training)
        return original(self)

    monkeypatch.setattr(ACBlock, "_fuse_frozen", counting)
    return made


class SwapWeights(pl.Callback):
    """Validates other weights than it trains, as an average of weights does, by edits that PyTorch does not count."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(2)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for parameter in pl_module.parameters():
            parameter.data.div_(2)


def test_fuses_once_for_each_evaluation_and_never_goes_stale(fused: list[bool]) -> None:
    loader: Any = torch.utils.data.DataLoader(torch.randn(12, 3, 6, 6), batch_size=4)  # type: ignore[arg-type]
    net = Net()
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[KeepFused(), SwapWeights()],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(net, loader, loader)
    around = 3 * 2
    assert fused == [False] * (2 + around)
    trainer.test(net, loader, verbose=False)
    trainer.predict(net, loader)
    assert fused == [False] * (4 + around)
    for stage, batches in (("validation", 6), ("test", 3), ("predict", 3), ("around", around)):
        assert len(net.outputs[stage]) == batches
        for found, expected in net.outputs[stage]:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        net.eval().net(torch.randn(4, 3, 6, 6))
    assert len(fused) == 5 + around  # nothing is kept afterwards


def test_an_exception_ends_it(fused: list[bool]) -> None:
    net, callback = Net().eval(), KeepFused()
    callback.on_validation_batch_start(pl.Trainer(accelerator="cpu", logger=False, barebones=True), net, None, 0)
    with torch.no_grad():
        net.net(torch.randn(1, 3, 6, 6))
        net.net(torch.randn(1, 3, 6, 6))
        assert len(fused) == 1
        callback.on_exception(None, net, RuntimeError())  # type: ignore[arg-type]
        net.net(torch.randn(1, 3, 6, 6))
    assert len(fused) == 2
