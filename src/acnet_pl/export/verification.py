"""Compare an exported file with the network that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acnet_pl.analysis.evaluation import evaluating, full_precision, placed
from acnet_pl.nn import explicit_branches

__all__ = ["Runner", "Verification", "tensors_in", "verify"]

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Verification:
    """Differences between the outputs of an exported file and of the network.

    Attributes:
        images: Number of images compared.
        max_abs_difference: max |network − file| over all images and outputs.
        max_rel_difference: That divided by max |network| of the same output tensor, the largest of all outputs.
    """

    images: int
    max_abs_difference: float
    max_rel_difference: float

    def within(self, tolerance: float) -> bool:
        """Return True if the relative difference is at most ``tolerance``; False for NaN."""
        return self.max_rel_difference <= tolerance

    def __str__(self) -> str:
        return (
            f"max difference {self.max_abs_difference:.3g} (relative {self.max_rel_difference:.3g}) on "
            f"{self.images} images"
        )


def verify(network: nn.Module, exported: Runner, batches: Iterable[Tensor]) -> Verification:
    """Compare a file with its network, blocks evaluated branch by branch in full precision.

    Args:
        network: As it was trained; its mode is restored.
        exported: From images ``(N, C, H, W)`` to the outputs, in the order of `tensors_in`.
        batches: Images, moved to the network's device and dtype.

    Raises:
        ValueError: There are no images, or the outputs differ in number or shape.
    """
    images = 0
    differences: dict[int, tuple[float, float]] = {}
    for batch in batches:
        batch = placed(network, batch)
        with evaluating(network), explicit_branches(network), full_precision(batch.device):
            expected = tensors_in(network(batch))
            outputs = exported(batch.cpu())
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, outputs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"the network gives outputs of shapes {shapes[0]}, the exported file {shapes[1]}")
        for index, (wanted, got) in enumerate(zip(expected, outputs, strict=True)):
            wanted, got = wanted.detach().cpu().double(), got.detach().cpu().double()
            difference, size = (wanted - got).abs().max().item(), wanted.abs().max().item()
            before = differences.get(index, (0.0, 0.0))
            differences[index] = (_largest(before[0], difference), _largest(before[1], size))
        images += len(batch)
    if images == 0:
        raise ValueError("there are no images to verify the exported file with")
    return Verification(
        images,
        _largest(*(difference for difference, _ in differences.values())),
        # Where both give only zeros they are equal, not 0 / 0.
        _largest(*(d / size if size else (0.0 if d == 0 else math.inf) for d, size in differences.values())),
    )


def tensors_in(outputs: object) -> list[Tensor]:
    """Return the tensors in a network's outputs, nested in lists, tuples and dicts, in order.

    Examples:
        >>> [tensor.item() for tensor in tensors_in({"out": torch.tensor(1), "aux": [torch.tensor(2)]})]
        [1, 2]
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for item in outputs for tensor in tensors_in(item)]
    return []


def _largest(*values: float) -> float:
    """Return the largest number, or NaN if there is one."""
    return torch.tensor(values or (0.0,), dtype=torch.float64).max().item()
