"""EquivalenceCheck: prove on real batches that the folded network is the trained one."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from acnet_pl.analysis import Equivalence, EquivalenceMetric, evaluate_pair, first_divergence
from acnet_pl.nn import fuse_model

__all__ = ["EquivalenceCheck", "EquivalenceError"]

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class EquivalenceError(ValueError):
    """The folded network does not compute what the trained one does; the message names the layer where they part."""


class EquivalenceCheck(Callback):
    """Compare the trained network, branch by branch, with its fold on the validation batches.

    Logs ``equivalence/max_abs_difference``, ``max_rel_difference`` (of max |trained logits|), ``top1_agreement``,
    ``trained_accuracy`` and ``folded_accuracy``. Both networks are evaluated outside of autocast. ``result`` holds the
    last figures.

    Args:
        tolerance: Largest relative difference allowed; None is 1e-4 for float32 networks, 1e-10 for float64.
        fit_batches: Batches compared in each validation during ``fit``; ``validate`` compares all.
        enabled: False switches the check off.

    Raises:
        EquivalenceError: While validating, above the tolerance.
    """

    def __init__(self, tolerance: float | None = None, fit_batches: int = 4, enabled: bool = True) -> None:
        self.tolerance = tolerance
        self.fit_batches = fit_batches
        self.enabled = enabled
        self.result: Equivalence | None = None
        self._folded: nn.Module | None = None
        self._metric: EquivalenceMetric | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fold a copy of the network."""
        if self.enabled and not trainer.sanity_checking:
            self._folded = fuse_model(_network(pl_module))
            self._metric = EquivalenceMetric().to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the logits of one batch."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if self._folded is None or self._metric is None or (fitting and batch_idx >= self.fit_batches):
            return
        images, labels = batch
        if not len(labels):
            return
        images = images.to(_dtype(self._folded))
        trained, folded = evaluate_pair(_network(pl_module), self._folded, images)
        tolerance = self._allowed()
        # Any process that sees a difference stops at once, and names the layer while it has the images at hand.
        if not ((trained - folded).abs().max() <= tolerance * trained.abs().max()):
            divergence = first_divergence(_network(pl_module), self._folded, images, tolerance)
            raise EquivalenceError(
                f"the folded network differs from the trained one by more than {tolerance:g} (relative) on validation "
                f"batch {batch_idx}; {divergence}"
            )
        self._metric.update(trained, folded, labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures over all batches and processes."""
        if self._folded is None or self._metric is None:
            return
        self.result = self._metric.result()
        self._folded = self._metric = None
        for name, value in self.result.as_dict().items():
            if name != "samples":
                pl_module.log(f"equivalence/{name}", value, rank_zero_only=False)
        if trainer.state.fn != TrainerFn.FITTING:
            rank_zero_info(f"{self.result}")

    def _allowed(self) -> float:
        if self.tolerance is not None:
            return self.tolerance
        assert self._folded is not None
        return _TOLERANCES[_dtype(self._folded)]


def _network(pl_module: LightningModule) -> nn.Module:
    network = pl_module.net
    assert isinstance(network, nn.Module)
    return network


def _dtype(network: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in network.parameters() if parameter.is_floating_point())
