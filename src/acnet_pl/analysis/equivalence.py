"""Compare a fused network with the trained one on real batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import deprecated

from acnet_pl.analysis.evaluation import (
    count_correct,
    device_of,
    evaluating,
    full_precision,
    own_draws,
    placed,
    require_samples,
    unpack,
)
from acnet_pl.analysis.inputs import Inputs, labels_of, network_inputs, sample_count, tensors_of
from acnet_pl.nn import explicit_branches
from acnet_pl.nn.surgery.running import call

__all__ = ["Equivalence", "EquivalenceMetric", "compare", "evaluate_pair"]

_SLOTS = 64  # output tensors whose ranges are kept apart; a network with more compares the rest together


@dataclass(frozen=True)
class Equivalence:
    """Differences between the outputs of a fused and a trained model.

    Attributes:
        samples: Number of images compared.
        max_abs_difference: max |trained − fused| over all images and all numbers of the output.
        max_rel_difference: That divided by max |trained|; of several output tensors, the largest of theirs.
        top1_agreement: Share of the images for which both predict the same class; NaN agrees with nothing. None where
            the output is not logits ``(N, num_classes)``.
        trained_accuracy: Top-1 accuracy of the trained model, 0 to 1; None without labels or logits.
        fused_accuracy: Top-1 accuracy of the fused model, 0 to 1; None without labels or logits.
    """

    samples: int
    max_abs_difference: float
    max_rel_difference: float
    top1_agreement: float | None = None
    trained_accuracy: float | None = None
    fused_accuracy: float | None = None

    @property
    @deprecated("folded_accuracy is now fused_accuracy; the old name will be removed in the next version")
    def folded_accuracy(self) -> float | None:
        """Return `fused_accuracy`; this is its old name."""
        return self.fused_accuracy

    def within(self, tolerance: float) -> bool:
        """Return True if the relative difference is at most ``tolerance``; False for NaN."""
        return self.max_rel_difference <= tolerance

    def as_dict(self) -> dict[str, float]:
        """Return the attributes by name, without unknown ones."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        text = (
            f"trained vs fused on {self.samples} images: max difference {self.max_abs_difference:.3g} "
            f"(relative {self.max_rel_difference:.3g})"
        )
        if self.top1_agreement is not None:
            text += f", top-1 agreement {self.top1_agreement:.2%}"
        if self.trained_accuracy is None or self.fused_accuracy is None:
            return text
        return f"{text}, accuracy {self.trained_accuracy:.2%} trained, {self.fused_accuracy:.2%} fused"


class EquivalenceMetric(Metric):
    """torchmetrics.Metric that accumulates an `Equivalence` batch by batch, over all processes.

    Its states are maxima per output tensor (reduced by max) and counts (reduced by sum), so the result over several
    processes is that of one process that saw all their images. Images that a distributed sampler repeats are counted
    again.

    Examples:
        >>> metric = EquivalenceMetric()
        >>> metric.update(torch.tensor([[1.0, 4.0]]), torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
        >>> metric.result().max_rel_difference
        0.25
    """

    full_state_update = False
    max_difference: Tensor
    max_trained: Tensor
    samples: Tensor
    classified: Tensor
    labelled: Tensor
    agreed: Tensor
    trained_correct: Tensor
    fused_correct: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("max_difference", "max_trained"):
            self.add_state(name, torch.zeros(_SLOTS), dist_reduce_fx="max")
        for name in ("samples", "classified", "labelled", "agreed", "trained_correct", "fused_correct"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, trained: Any, fused: Any, labels: Tensor | None = None, samples: int | None = None) -> None:
        """Add a batch.

        Args:
            trained: Output of the trained model: a tensor, or tensors in tuples, lists, mappings and dataclasses.
            fused: Output of the fused model.
            labels: Class indices ``(N,)``, if known and if the outputs are logits ``(N, num_classes)``.
            samples: N; None is the first dimension of the first tensor.

        Raises:
            ValueError: The outputs have no tensors, or differ in number or shape.
        """
        ours, theirs = ([tensor.detach() for tensor in tensors_of(output)] for output in (trained, fused))
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (ours, theirs)]
        if shapes[0] != shapes[1] or not ours:
            raise ValueError(
                f"the outputs of the trained {shapes[0]} and the fused model {shapes[1]} must be tensors of the same "
                "shapes; are they the same architecture?"
            )
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if not one.numel():
                continue
            slot = min(index, _SLOTS - 1)
            # torch.maximum, not Python's max, because it keeps NaN.
            for state, value in ((self.max_difference, _distance(one, other)), (self.max_trained, _distance(one))):
                state[slot] = torch.maximum(state[slot], value.to(state))
        self.samples += sample_count(ours[0]) if samples is None else samples
        if len(ours) > 1 or ours[0].dim() != 2 or not ours[0].is_floating_point():
            return
        logits, other = ours[0], theirs[0].to(ours[0])
        finite = ~(logits.isnan() | other.isnan()).any(1)
        self.classified += len(logits)
        self.agreed += ((logits.argmax(1) == other.argmax(1)) & finite).sum() if logits.numel() else 0
        if labels is not None and labels.shape == logits.shape[:1]:
            self.labelled += len(labels)
            self.trained_correct += count_correct(logits, labels)[0]
            self.fused_correct += count_correct(other, labels)[0]

    def compute(self) -> dict[str, Tensor]:
        """Return the numbers of `Equivalence` by name, as tensors."""
        return {name: torch.tensor(value, device=self.device) for name, value in self._result().as_dict().items()}

    def result(self) -> Equivalence:
        """Return an `Equivalence` over all processes.

        Raises:
            ValueError: No process has had any images.
        """
        with self.sync_context(self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._result()

    def _result(self) -> Equivalence:
        samples, labelled, classified = require_samples(int(self.samples)), int(self.labelled), int(self.classified)
        differences, sizes = self.max_difference.tolist(), self.max_trained.tolist()
        # Where both models give only zeros they are equal, not 0 / 0.
        relative = [
            d / size if size else (0.0 if d == 0 else math.inf) for d, size in zip(differences, sizes, strict=True)
        ]
        return Equivalence(
            samples=samples,
            max_abs_difference=_largest(differences),
            max_rel_difference=_largest(relative),
            top1_agreement=int(self.agreed) / classified if classified else None,
            trained_accuracy=int(self.trained_correct) / labelled if labelled else None,
            fused_accuracy=int(self.fused_correct) / labelled if labelled else None,
        )


def evaluate_pair(trained: nn.Module, fused: nn.Module, inputs: Any) -> tuple[Any, Any]:
    """Evaluate both models on one batch, as `compare` does.

    Args:
        trained: Any network.
        fused: The same function, fused.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
    """
    with evaluating(trained, fused), explicit_branches(trained), full_precision(device_of(trained)):
        with own_draws(trained):  # both draw the same numbers, if they draw in eval mode
            expected = call(trained, placed(trained, inputs))
        with own_draws(fused):
            return expected, call(fused, placed(fused, inputs))


def compare(trained: nn.Module, fused: nn.Module, batches: Iterable[Any], inputs: Inputs = None) -> Equivalence:
    """Compare the outputs of a trained model with those of its fused copy, on real batches.

    Both are evaluated in eval mode, the trained one with `explicit_branches` (otherwise its fused shortcut would be
    compared with the fused model), without autocast and with TF32 switched off, so that what is measured is the
    fusing and not the rounding of reduced-precision arithmetic. Modes and settings are restored.

    Args:
        trained: Any network, with tensors or nested tensors as output.
        fused: The same function, fused.
        batches: Normalised images ``(N, C, H, W)``, or pairs of images and labels ``(N,)``; or batches of any form,
            with ``inputs``. Moved to the models' devices. Empty ones are passed over.
        inputs: The name of the network's input in a batch, or a function from a batch to it (a tensor, a tuple of
            positional arguments, a dict of keyword arguments).

    Raises:
        ValueError: There are no images, or the outputs of the two differ in shape.
    """
    metric = EquivalenceMetric(sync_on_compute=False)
    for batch in batches:
        taken, labels = unpack(batch) if inputs is None else (network_inputs(trained, batch, inputs), labels_of(batch))
        if not (samples := sample_count(taken)):
            continue
        outputs = evaluate_pair(trained, fused, taken)
        metric.to(device_of(trained)).update(*outputs, labels, samples)
    return metric.result()


def _distance(one: Tensor, other: Tensor | None = None) -> Tensor:
    """Return the largest absolute value of a tensor, or of its difference from another one."""
    if not (one.is_floating_point() or one.is_complex()):
        one, other = one.double(), None if other is None else other.double()
    if other is None:
        return one.abs().where(~one.isinf(), 0).max()  # a mask of -inf is no scale to judge by
    other = other.to(one)
    return (one - other).abs().where(one != other, 0).max()


def _largest(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)
