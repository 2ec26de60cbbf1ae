"""RotationRobustness: test the fused network on rotated and flipped images (Table 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from acnet_pl.analysis import Inputs, RotationAccuracy, RotationMetric, labels_of, rotation_outputs
from acnet_pl.analysis.evaluation import require_logits
from acnet_pl.analysis.inputs import describe_batch, sample_count
from acnet_pl.analysis.rotation import TRANSFORMS
from acnet_pl.callbacks.subject import Subject, few
from acnet_pl.loggers import log_table
from acnet_pl.nn.precision import full_precision

__all__ = ["RotationRobustness"]


class RotationRobustness(Callback):
    """Test the fused network on images as they are, rotated by 90° and 180°, and flipped up-down (Table 4).

    Images are turned by 90° counter-clockwise. One pass over the test data evaluates all of them in float32, whatever
    the Trainer's precision.

    Logs ``rotation/original/top1``, ``rotation/rotate_90/top1`` and so on, and a table. ``result`` holds the last
    figures.

    Args:
        enabled: False switches the test off.
        network: Name of the submodule to test, such as "generator". None is the one submodule that holds all
            parameters, or else the LightningModule itself. With a name, what is logged is under
            ``rotation/<network>/``.
        inputs: What the network takes of a batch: the name of a part, or a function of the batch. None finds it.
        metric: A function ``metric(outputs, batch)`` that gives a number, or one per sample, for tasks other than
            classification. Logged as ``rotation/original/metric`` and so on. Maps ``(N, C, H, W)`` among the outputs
            are turned back before, so that they can be compared with the batch's targets.

    Raises:
        ValueError: Before the first step, if the network cannot be found, called or told what to take of a batch, or
            if it is no classifier and there is no metric.
    """

    def __init__(
        self,
        enabled: bool = True,
        network: str | None = None,
        inputs: Inputs = None,
        metric: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.enabled = enabled
        self.subject = Subject(network, inputs)
        self.metric = metric
        self.result: RotationAccuracy | None = None
        self.scores: dict[str, float] = {}
        self._prefix = f"rotation/{network}" if network else "rotation"
        self._tried = False
        self._fused: nn.Module | None = None
        self._accuracy = RotationMetric()
        self._means = {name: MeanMetric() for name in TRANSFORMS}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a network to call."""
        if self.enabled and stage in ("fit", "test"):
            self.subject.check(trainer, pl_module, self)
            self._tried = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Try the test on two samples, before anything is trained."""
        if self.enabled and not self._tried:
            self._tried = True
            inputs = few(self.subject.first_inputs_of(pl_module, batch))
            if samples := sample_count(inputs):
                with torch.compiler.set_stance("force_eager"):
                    outputs = self._outputs(self.subject.fused(pl_module, inputs), inputs)
                if self.metric is None:
                    self._logits(outputs, samples)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts."""
        self._fused = None
        self._accuracy = RotationMetric().to(pl_module.device)
        self._means = {name: MeanMetric().to(pl_module.device) for name in TRANSFORMS}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure one batch under each transform."""
        if not self.enabled:
            return
        inputs = self.subject.inputs_of(pl_module, batch)
        if not (samples := sample_count(inputs)):
            return
        if self._fused is None:
            self._fused = self.subject.fused(pl_module, inputs).float()
        found = self._outputs(self._fused, inputs)
        if self.metric is not None:
            for name, output in found.items():
                self._means[name].update(torch.as_tensor(self.metric(output, batch)).float().mean(), samples)
            return
        labels = labels_of(batch)
        if labels is None:
            raise ValueError(
                f"RotationRobustness needs class labels (N,), found none in a batch that is {describe_batch(batch)}; "
                "for other tasks give `metric`, a function of the outputs and the batch"
            )
        self._accuracy.update(self._logits(found, samples), labels)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures over all batches and processes."""
        if not self.enabled:
            return
        self._fused = None
        if self.metric is not None:
            self.scores = {name: float(mean.compute()) for name, mean in self._means.items()}
            pl_module.log_dict({f"{self._prefix}/{name}/metric": score for name, score in self.scores.items()})
            log_table(trainer, self._prefix, ["images", "metric"], list(self.scores.items()))
            return
        self.result = self._accuracy.result()
        figures = {
            f"{self._prefix}/{name}": value for name, value in self.result.as_dict().items() if name != "samples"
        }
        pl_module.log_dict(figures)
        rows = [[name, *values.values()] for name, values in self.result.accuracy.items()]
        columns = [f"top{k}" for k in self.result.accuracy["original"]]
        log_table(trainer, self._prefix, ["images", *columns], rows)
        rank_zero_info(f"{self.result}")

    @staticmethod
    def _outputs(fused: nn.Module, inputs: Any) -> dict[str, Any]:
        device = next(fused.parameters()).device
        with full_precision(device):
            return rotation_outputs(fused, inputs)

    @staticmethod
    def _logits(outputs: dict[str, Any], samples: int) -> dict[str, Tensor]:
        try:
            return {name: require_logits(output, samples) for name, output in outputs.items()}
        except ValueError as error:
            raise ValueError(
                f"RotationRobustness: {error}; for other tasks give `metric`, a function of outputs and batch"
            ) from error
