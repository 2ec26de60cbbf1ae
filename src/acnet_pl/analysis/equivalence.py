"""Is the folded network the trained one? Measured on real batches, and where not, in which layer they part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from acnet_pl.analysis.evaluation import (
    count_correct,
    evaluating,
    full_precision,
    logits_of,
    placed,
    require_samples,
    unpack,
)
from acnet_pl.nn import explicit_branches

__all__ = ["Equivalence", "EquivalenceMetric", "compare", "evaluate_pair"]


@dataclass(frozen=True)
class Equivalence:
    """How far a folded model's logits are from the trained model's.

    Attributes:
        samples: Number of images compared.
        max_abs_difference: max |trained − folded| over all images and classes.
        max_rel_difference: That divided by max |trained|, also over all images and classes.
        top1_agreement: Share of the images for which both predict the same class.
        trained_accuracy: Top-1 accuracy of the trained model, 0 to 1; None without labels.
        folded_accuracy: Top-1 accuracy of the folded model, 0 to 1; None without labels.
    """

    samples: int
    max_abs_difference: float
    max_rel_difference: float
    top1_agreement: float
    trained_accuracy: float | None = None
    folded_accuracy: float | None = None

    def within(self, tolerance: float) -> bool:
        """Whether the relative difference is at most ``tolerance``. NaN is not within any."""
        return self.max_rel_difference <= tolerance

    def as_dict(self) -> dict[str, float]:
        """The attributes by name, without accuracies that are unknown."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        text = (
            f"trained vs folded on {self.samples} images: max difference {self.max_abs_difference:.3g} "
            f"(relative {self.max_rel_difference:.3g}), top-1 agreement {self.top1_agreement:.2%}"
        )
        if self.trained_accuracy is None or self.folded_accuracy is None:
            return text
        return f"{text}, accuracy {self.trained_accuracy:.2%} trained, {self.folded_accuracy:.2%} folded"


class EquivalenceMetric(Metric):
    """Accumulates an `Equivalence` batch by batch; as a torchmetrics.Metric it is synchronised between processes.

    Its states are two maxima (reduced by max) and four counts (reduced by sum), so the result over several processes
    is that of one process that saw all their images. Images that a distributed sampler repeats are counted again.

    Example:
        >>> metric = EquivalenceMetric()
        >>> metric.update(torch.tensor([[1.0, 4.0]]), torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
        >>> metric.result().max_rel_difference
        0.25
    """

    full_state_update = False
    max_difference: Tensor
    max_trained: Tensor
    samples: Tensor
    labelled: Tensor
    agreed: Tensor
    trained_correct: Tensor
    folded_correct: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("max_difference", "max_trained"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="max")
        for name in ("samples", "labelled", "agreed", "trained_correct", "folded_correct"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, trained: Tensor, folded: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch: the logits ``(N, num_classes)`` of both models and, if known, the labels ``(N,)``.

        Raises:
            ValueError: The logits differ in shape.
        """
        if trained.shape != folded.shape:
            raise ValueError(
                f"the logits of the trained {tuple(trained.shape)} and the folded model {tuple(folded.shape)} must "
                "have the same shape; are they the same architecture?"
            )
        trained, folded = trained.detach(), folded.detach().to(trained)
        # torch.maximum, not Python's max, because it keeps NaN.
        difference = (trained - folded).abs().max().to(self.max_difference)
        self.max_difference = torch.maximum(self.max_difference, difference)
        self.max_trained = torch.maximum(self.max_trained, trained.abs().max().to(self.max_trained))
        self.samples += len(trained)
        self.agreed += (trained.argmax(1) == folded.argmax(1)).sum()
        if labels is not None:
            self.labelled += len(labels)
            self.trained_correct += count_correct(trained, labels)[0]
            self.folded_correct += count_correct(folded, labels)[0]

    def compute(self) -> dict[str, Tensor]:
        """The numbers of `Equivalence` by name, as tensors."""
        return {name: torch.tensor(value, device=self.device) for name, value in self._result().as_dict().items()}

    def result(self) -> Equivalence:
        """The same, over all processes, as an `Equivalence`.

        Raises:
            ValueError: No process has had any images.
        """
        with self.sync_context(self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._result()

    def _result(self) -> Equivalence:
        samples, labelled = require_samples(int(self.samples)), int(self.labelled)
        difference, size = float(self.max_difference), float(self.max_trained)
        return Equivalence(
            samples=samples,
            max_abs_difference=difference,
            # Where both models give only zeros they are equal, not 0 / 0.
            max_rel_difference=difference / size if size else (0.0 if difference == 0 else math.inf),
            top1_agreement=int(self.agreed) / samples,
            trained_accuracy=int(self.trained_correct) / labelled if labelled else None,
            folded_accuracy=int(self.folded_correct) / labelled if labelled else None,
        )


def evaluate_pair(trained: nn.Module, folded: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of both models for one batch, as `compare` evaluates them."""
    images = placed(trained, images)
    with evaluating(trained, folded), explicit_branches(trained), full_precision(images.device):
        return logits_of(trained, images), logits_of(folded, images)


def compare(trained: nn.Module, folded: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> Equivalence:
    """Compare the logits of a trained model with those of its folded copy, on real batches.

    Both are evaluated in eval mode, the trained one with `explicit_branches` (otherwise its folded shortcut would be
    compared with the folded model), without autocast and with TF32 switched off, so that what is measured is the
    folding and not the rounding of reduced-precision arithmetic. Modes and settings are restored.

    Args:
        trained: From images ``(N, C, H, W)`` to logits ``(N, num_classes)``.
        folded: The same function, folded.
        batches: Normalised images, or pairs of images and labels ``(N,)``; moved to the models' devices.

    Raises:
        ValueError: There are no images, or the logits of the two differ in shape.
    """
    metric = EquivalenceMetric(sync_on_compute=False)
    for batch in batches:
        images, labels = unpack(batch)
        outputs = evaluate_pair(trained, folded, images)
        metric.to(outputs[0].device).update(*outputs, labels)
    return metric.result()
