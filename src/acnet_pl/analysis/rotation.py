"""Measure accuracy on rotated and flipped images (Table 4), and how kernels respond to flips (Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric

from acnet_pl.analysis.evaluation import (
    Batches,
    count_correct,
    evaluating,
    labelled,
    placed,
    require_logits,
    require_samples,
)
from acnet_pl.analysis.inputs import tensors_of
from acnet_pl.nn import FusibleConv
from acnet_pl.nn.surgery.running import call

__all__ = [
    "TRANSFORMS",
    "RotationAccuracy",
    "RotationMetric",
    "flip_response",
    "rotation_accuracy",
    "rotation_logits",
    "rotation_outputs",
]


def _rotate_90(images: Tensor) -> Tensor:
    return torch.rot90(images, 1, (-2, -1))


def _rotate_180(images: Tensor) -> Tensor:
    return images.flip(-2, -1)


def _flip_up_down(images: Tensor) -> Tensor:
    return images.flip(-2)


TRANSFORMS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "original": torch.clone,
        "rotate_90": _rotate_90,
        "rotate_180": _rotate_180,
        "flip_up_down": _flip_up_down,
    }
)
"""The columns of Table 4: from images ``(N, C, H, W)`` to images; ``rotate_90`` is counter-clockwise."""

_INVERSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "original": lambda maps: maps,
    "rotate_90": lambda maps: torch.rot90(maps, -1, (-2, -1)),
}  # the others are their own

_TITLES = {
    "original": "Original input",
    "rotate_90": "Rotate 90°",
    "rotate_180": "Rotate 180°",
    "flip_up_down": "Up-down flip",
}


@dataclass(frozen=True)
class RotationAccuracy:
    """Accuracy on transformed images.

    Attributes:
        samples: Number of images.
        accuracy: Per transform of `TRANSFORMS` and per k the top-k accuracy, 0 to 1.
    """

    samples: int
    accuracy: Mapping[str, Mapping[int, float]]

    def as_dict(self) -> dict[str, float]:
        """Return figures for loggers: ``{"samples": ..., "original/top1": ..., "rotate_90/top1": ...}``."""
        flat: dict[str, float] = {"samples": self.samples}
        for name, accuracies in self.accuracy.items():
            flat.update({f"{name}/top{k}": value for k, value in accuracies.items()})
        return flat

    def __str__(self) -> str:
        ks = list(next(iter(self.accuracy.values())))
        lines = ["  ".join([f"{self.samples} images".ljust(14), *(_TITLES[name].rjust(14) for name in self.accuracy)])]
        for k in ks:
            cells = [f"{100 * accuracies[k]:.2f}".rjust(14) for accuracies in self.accuracy.values()]
            lines.append("  ".join([f"Top-{k} (%)".ljust(14), *cells]))
        return "\n".join(lines)


class RotationMetric(Metric):
    """torchmetrics.Metric that accumulates a `RotationAccuracy` batch by batch, over all processes.

    Its states are counts, reduced by sum.

    Args:
        topk: The ks. Those that are not less than the number of classes, of which every image is correct, are left out
            of the result, but for the least k.
        kwargs: As torchmetrics.Metric's.
    """

    full_state_update = False
    correct: Tensor
    samples: Tensor
    classes: Tensor

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not topk or min(topk) < 1:
            raise ValueError(f"`topk` (={topk!r}) must hold at least one number, each at least 1")
        self.topk = tuple(topk)
        zeros = torch.zeros(len(TRANSFORMS), len(self.topk), dtype=torch.int64)
        self.add_state("correct", zeros, dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("classes", torch.tensor(0), dist_reduce_fx="max")

    def update(self, logits: Mapping[str, Tensor], labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Result of `rotation_logits`: ``(N, num_classes)`` per transform.
            labels: Class indices, ``(N,)``.
        """
        self.correct += torch.stack([count_correct(logits[name], labels, self.topk) for name in TRANSFORMS])
        self.samples += len(labels)
        self.classes = self.classes.clamp(min=logits["original"].shape[1])

    def compute(self) -> dict[str, Tensor]:
        """Return the figures of `RotationAccuracy.as_dict` as tensors."""
        return {name: torch.tensor(value, device=self.device) for name, value in self._result().as_dict().items()}

    def result(self) -> RotationAccuracy:
        """Return the accuracies over all processes.

        Raises:
            ValueError: No process has had any images.
        """
        with self.sync_context(self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._result()

    def _result(self) -> RotationAccuracy:
        samples = require_samples(int(self.samples))
        told = {min(self.topk), *(k for k in self.topk if k < int(self.classes))}
        accuracy = {
            name: {k: count / samples for k, count in zip(self.topk, counts, strict=True) if k in told}
            for name, counts in zip(TRANSFORMS, self.correct.tolist(), strict=True)
        }
        return RotationAccuracy(samples, accuracy)


def rotation_outputs(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Evaluate a network, in eval mode, on its input under each of `TRANSFORMS`.

    Args:
        model: Any network.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; all floating-point tensors
            ``(N, C, H, W)`` in it are transformed.

    Returns:
        The outputs by transform. Maps ``(N, C, H, W)`` among them, of a segmentation network say, are turned back, to
        be compared with the original targets.

    Raises:
        ValueError: The images are not square and the model cannot take them rotated by 90°, as ``(N, C, W, H)``.
    """
    shapes = [tuple(tensor.shape[-2:]) for tensor in tensors_of(inputs) if _is_map(tensor)]
    outputs = {}
    with evaluating(model):
        for name, transform in TRANSFORMS.items():
            try:
                output = call(model, placed(model, _on_maps(transform, inputs)))
            except RuntimeError as error:
                wide = [(height, width) for height, width in shapes if height != width]
                if name == "rotate_90" and wide:
                    height, width = wide[0]
                    raise ValueError(
                        f"the model takes images of {height}×{width} and fails on {width}×{height}, rotated by 90°: "
                        "use square images, or a model that ends in global pooling"
                    ) from error
                raise
            outputs[name] = _on_maps(_INVERSES.get(name, transform), output)
    return outputs


def rotation_logits(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return logits ``(N, num_classes)`` for images ``(N, C, H, W)`` under each of `TRANSFORMS`, in eval mode.

    Raises:
        ValueError: As `rotation_outputs`, or the outputs are no logits.
    """
    return {name: require_logits(output, len(images)) for name, output in rotation_outputs(model, images).items()}


def rotation_accuracy(model: nn.Module, batches: Batches, topk: Sequence[int] = (1, 5)) -> RotationAccuracy:
    """Measure accuracy on images as they are, rotated by 90° and 180°, and flipped up-down (Table 4).

    One pass over the batches; the model is in eval mode meanwhile and left as it was.

    Args:
        model: From images ``(N, C, H, W)`` to logits ``(N, num_classes)``.
        batches: Pairs of normalised images and labels ``(N,)``; moved to the model's device and dtype.
        topk: The ks.

    Raises:
        ValueError: There are no images, or see `rotation_logits`.
    """
    metric = RotationMetric(topk, sync_on_compute=False)
    for batch in batches:
        images, labels = labelled(batch)
        if not len(images):
            continue
        logits = rotation_logits(model, images)
        metric.to(logits["original"].device).update(logits, labels)
    return metric.result()


@torch.no_grad()
def flip_response(
    layer: nn.Conv2d | FusibleConv, images: Tensor, direction: Literal["up-down", "left-right"] = "up-down"
) -> dict[str, float]:
    """Compare a kernel's response to the flipped image with its flipped response (Fig. 4).

    A 1×k kernel does under an up-down flip, whatever its weights, a k×1 kernel under a left-right flip; a square one
    does not. Every kernel is applied by itself at every position inside the image (stride 1, no padding), as in the
    figure: with a stride the positions themselves need not be symmetric.

    Args:
        layer: A convolution, or a block, whose branches are then examined one by one.
        images: Inputs of the layer, ``(N, C_in, H, W)``, for instance random ones; at least as large as the kernel.
        direction: Direction of the flip.

    Returns:
        Per kernel, max |response to flipped − flipped response| / max |response|: rounding error if it does, of the
        order of 1 if not. The keys are the names of the block's branches ("square", "horizontal" and "vertical" of an
        ACBlock) and "fused"; for a layer of one branch just "fused".

    Examples:
        >>> from acnet_pl.nn import ACBlock
        >>> responses = flip_response(ACBlock(2, 4, 3), torch.randn(1, 2, 8, 8))
        >>> {name: difference < 1e-5 for name, difference in responses.items()}
        {'square': False, 'horizontal': True, 'vertical': False, 'fused': False}
    """
    axes = {"up-down": -2, "left-right": -1}
    if direction not in axes:
        raise ValueError(f"`direction` (={direction!r}) must be 'up-down' or 'left-right'")
    kernels: dict[str, Tensor] = {}
    if isinstance(layer, FusibleConv) and len(layer.branches()) > 1:
        kernels.update({name: _trimmed(kernel) for name, (kernel, _) in layer.fuse_branches().items()})
    kernels["fused"] = layer.get_equivalent_kernel_bias()[0] if isinstance(layer, FusibleConv) else layer.weight

    def difference(kernel: Tensor) -> float:
        def respond(x: Tensor) -> Tensor:
            return F.conv2d(x, kernel, dilation=layer.dilation, groups=layer.groups)

        expected = respond(images.to(kernel)).flip(axes[direction])
        actual = respond(images.to(kernel).flip(axes[direction]))
        largest = expected.abs().max()
        return float((actual - expected).abs().max() / largest) if largest else 0.0

    return {name: difference(kernel) for name, kernel in kernels.items()}


def _trimmed(kernel: Tensor) -> Tensor:
    """Return a kernel ``(O, I/groups, kH, kW)`` without the rows and columns of zeros around it."""
    used = kernel.abs().sum((0, 1)) > 0
    if not used.any():
        return kernel
    rows, columns = (used.any(axis).nonzero().flatten() for axis in (1, 0))
    return kernel[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _is_map(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_floating_point()


def _on_maps(transform: Callable[[Tensor], Tensor], value: Any) -> Any:
    return apply_to_collection(value, Tensor, lambda tensor: transform(tensor) if _is_map(tensor) else tensor)
