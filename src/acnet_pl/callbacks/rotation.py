"""RotationRobustness: the folded network's accuracy on rotated and flipped test images (Table 4)."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from acnet_pl.analysis import RotationAccuracy, RotationMetric, rotation_logits
from acnet_pl.callbacks.logging import log_table
from acnet_pl.nn import fuse_model
from acnet_pl.nn.precision import full_precision

__all__ = ["RotationRobustness"]


class RotationRobustness(Callback):
    """In ``test``, evaluate the fused network on the test images as they are, rotated 90° counter-clockwise and 180°,
    and flipped up-down (Table 4), in one pass over the data and in float32 whatever the Trainer's precision.

    Logs ``rotation/original/top1``, ``rotation/rotate_90/top1`` and so on, and a table. ``result`` holds the last
    figures.

    Args:
        enabled: False switches the test off.
    """  # noqa: D205

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.result: RotationAccuracy | None = None
        self._folded: nn.Module | None = None
        self._metric = RotationMetric()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fold a copy of the network."""
        if self.enabled:
            assert isinstance(pl_module.net, nn.Module)
            self._folded = fuse_model(pl_module.net).float()
            self._metric = RotationMetric().to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the correct predictions of one batch under each transform."""
        if self._folded is not None and len(batch[1]):
            images, labels = batch
            with full_precision(images.device):
                self._metric.update(rotation_logits(self._folded, images), labels)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies over all batches and processes."""
        if self._folded is None:
            return
        self._folded = None
        self.result = self._metric.result()
        figures = {f"rotation/{name}": value for name, value in self.result.as_dict().items() if name != "samples"}
        pl_module.log_dict(figures)
        rows = [[name, *values.values()] for name, values in self.result.accuracy.items()]
        log_table(trainer, "rotation", ["images", *(f"top{k}" for k in self._metric.topk)], rows)
        rank_zero_info(f"{self.result}")
