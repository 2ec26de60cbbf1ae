"""EquivalenceCheck: compare the fused with the trained network on real batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from acnet_pl.analysis import Equivalence, EquivalenceMetric, Inputs, evaluate_pair, first_divergence, labels_of
from acnet_pl.analysis.inputs import sample_count, tensors_of
from acnet_pl.callbacks.subject import Subject

__all__ = ["EquivalenceCheck", "EquivalenceError"]

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class EquivalenceError(ValueError):
    """The fused network differs from the trained one; the message names the first layer that differs."""


class EquivalenceCheck(Callback):
    """Compare the trained network, branch by branch, with its fused copy on the validation batches.

    Logs ``equivalence/max_abs_difference`` and ``max_rel_difference`` (of max |trained output|), for classifiers
    ``top1_agreement``, ``trained_accuracy`` and ``fused_accuracy``, and with ``metric`` ``trained_metric`` and
    ``fused_metric``. Any outputs are compared: tensors, and tensors nested in tuples, lists, mappings and dataclasses.
    Both networks are evaluated outside of autocast. ``result`` holds the last figures. Where the weights are swapped
    for averages during validation (EMA), these are what is compared, wherever in the list of callbacks this one stands.

    Args:
        tolerance: Largest relative difference allowed; None is 1e-4 for float32 networks, 1e-10 for float64.
        fit_batches: Batches compared in each validation during ``fit``; ``validate`` compares all.
        enabled: False switches the check off.
        network: Name of the submodule to compare, such as "generator". None is the one submodule that holds all
            parameters, or else the LightningModule itself. With a name, what is logged is under
            ``equivalence/<network>/``.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it.
        metric: A function ``metric(outputs, batch)`` that gives a number, or one per sample, for tasks other than
            classification.

    Raises:
        ValueError: ``fit_batches`` is below 1. Before the first step, if the network cannot be found, called or told
            what to take of a batch.
        FusionError: Before the first step, if a layer cannot be fused.
        EquivalenceError: While validating, above the tolerance.
    """

    def __init__(
        self,
        tolerance: float | None = None,
        fit_batches: int = 4,
        enabled: bool = True,
        network: str | None = None,
        inputs: Inputs = None,
        metric: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        if fit_batches < 1:
            raise ValueError(f"`equivalence.fit_batches` (={fit_batches}) must be at least 1")
        self.tolerance = tolerance
        self.fit_batches = fit_batches
        self.enabled = enabled
        self.subject = Subject(network, inputs)
        self.metric = metric
        self.result: Equivalence | None = None
        self._prefix = f"equivalence/{network}" if network else "equivalence"
        self._tried = False
        self._fused: nn.Module | None = None
        self._equivalence = EquivalenceMetric()
        self._scores = {"trained": MeanMetric(), "fused": MeanMetric()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a network to call."""
        if self.enabled and stage in ("fit", "validate"):
            self.subject.check(trainer, pl_module, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the result."""
        self._tried = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Try the comparison on the first batch, before anything is trained."""
        if self.enabled and not self._tried:
            self._tried = True
            inputs = self.subject.first_inputs_of(pl_module, batch)
            if sample_count(inputs):
                with torch.compiler.set_stance("force_eager"):
                    self._compare(pl_module, self.subject.fused(pl_module, inputs), inputs, batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts; the network is fused at the first batch, after all other callbacks."""
        self._fused = None
        self._equivalence = EquivalenceMetric().to(pl_module.device)
        self._scores = {name: MeanMetric().to(pl_module.device) for name in self._scores}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the outputs for one batch."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        if not self.enabled or trainer.sanity_checking or (fitting and batch_idx >= self.fit_batches):
            return
        inputs = self.subject.inputs_of(pl_module, batch)
        if not (samples := sample_count(inputs)):
            return
        if self._fused is None:
            self._fused = self.subject.fused(pl_module, inputs)
        trained, fused = self._compare(pl_module, self._fused, inputs, batch, f"validation batch {batch_idx}")
        self._equivalence.update(trained, fused, labels_of(batch), samples)
        if self.metric is not None:
            for mean, output in zip(self._scores.values(), (trained, fused), strict=True):
                mean.update(torch.as_tensor(self.metric(output, batch)).float().mean(), samples)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures over all batches and processes."""
        if not self.enabled or trainer.sanity_checking:
            return
        self._fused = None
        self.result = self._equivalence.result()
        figures = {name: value for name, value in self.result.as_dict().items() if name != "samples"}
        if self.metric is not None:
            figures.update({f"{name}_metric": float(mean.compute()) for name, mean in self._scores.items()})
        for name, value in figures.items():
            pl_module.log(f"{self._prefix}/{name}", value, rank_zero_only=False)
        if trainer.state.fn != TrainerFn.FITTING:
            rank_zero_info(f"{self.result}")

    def _compare(
        self, pl_module: LightningModule, fused: nn.Module, inputs: Any, batch: Any, where: str = "the first batch"
    ) -> tuple[Any, Any]:
        """Evaluate both; a process that finds a difference stops at once and names the layer."""
        network = self.subject.of(pl_module)
        outputs = evaluate_pair(network, fused, inputs)
        metric = EquivalenceMetric(sync_on_compute=False).to(pl_module.device)
        metric.update(*outputs, samples=sample_count(inputs))
        tolerance = self._allowed(outputs[0])
        if not metric.result().within(tolerance):
            raise EquivalenceError(
                f"the fused network differs from the trained one by more than {tolerance:g} (relative) on {where}; "
                f"{first_divergence(network, fused, inputs, tolerance)}"
            )
        if self.metric is not None:
            self.metric(outputs[0], batch)
        return outputs

    def _allowed(self, outputs: Any) -> float:
        if self.tolerance is not None:
            return self.tolerance
        kinds: set[torch.dtype] = {tensor.dtype for tensor in tensors_of(outputs) if isinstance(tensor, Tensor)}
        return max((_TOLERANCES[kind] for kind in kinds if kind in _TOLERANCES), default=_TOLERANCES[torch.float32])
