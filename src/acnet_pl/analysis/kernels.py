"""Compute the average kernel magnitude matrix (Eq. 9-10, Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.analysis.locations import LOCATIONS, Location, location_mask
from acnet_pl.nn import FusibleConv

__all__ = ["KernelMagnitude", "Matrix", "kernel_magnitude"]

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class KernelMagnitude:
    """Magnitude of a network's k×k kernels at each position.

    Attributes:
        average: A of Eq. 9: the mean of ``layers``, k×k, between 0 and 1.
        layers: Per layer S / max(S), k×k, with S of Eq. 10.
    """

    average: Matrix
    layers: Mapping[str, Matrix]

    @property
    def kernel_size(self) -> int:
        """Return k of the k×k kernels."""
        return len(self.average)

    def total(self, where: Location, layer: str | None = None) -> float:
        """Return the sum of a matrix over a location of `location_mask`: of the average, or of one layer."""
        matrix = torch.tensor(self.average if layer is None else self.layers[layer], dtype=torch.float64)
        return float(matrix[location_mask(where, self.kernel_size)].sum())

    def share(self, where: Location, layer: str | None = None) -> float:
        """Return `total` divided by the sum over the whole matrix, 0 to 1."""
        return self.total(where, layer) / self.total("global", layer)

    def as_dict(self) -> dict[str, Any]:
        """Return matrices, and sum and share of each location in the average, as JSON types."""
        return {
            "kernel_size": self.kernel_size,
            "average": [list(row) for row in self.average],
            "layers": {name: [list(row) for row in matrix] for name, matrix in self.layers.items()},
            "sums": {where: self.total(where) for where in LOCATIONS},
            "shares": {where: self.share(where) for where in LOCATIONS},
        }

    def __str__(self) -> str:
        k = self.kernel_size
        lines = [f"average magnitude of the {k}×{k} kernels of {len(self.layers)} layers"]
        lines += ["  " + "  ".join(f"{value:.3f}" for value in row) for row in self.average]
        parts = [where for where in LOCATIONS if where != "global"]
        shares = [f"{where} {self.total(where):.3f} ({self.share(where):.1%})" for where in parts]
        return "\n".join([*lines, "sum (share): " + ", ".join(shares)])


@torch.no_grad()
def kernel_magnitude(model: nn.Module, kernel_size: int = 3) -> KernelMagnitude:
    """Compute the average kernel magnitude matrix of a network (Eq. 9-10).

    Blocks (ACBlock, ConvNorm) are fused on the fly, with their running statistics, also in train mode; the model
    stays as it is. An nn.Conv2d counts as it stands: where batch norms follow such layers, give this function
    ``fuse_model(model)``, as the article looks at fused kernels.

    Args:
        model: Any network.
        kernel_size: k, odd and at least 3. Layers with other kernels are ignored.

    Raises:
        ValueError: No layer has k×k kernels, or a layer's kernels are all zero or not finite.
    """
    location_mask("global", kernel_size)  # refuses an even or too small size
    layers: dict[str, Tensor] = {}
    sizes = set()
    for name, layer in _convolutions(model).items():
        sizes.add(tuple(layer.kernel_size))
        if tuple(layer.kernel_size) == (kernel_size, kernel_size):
            kernel = layer.fuse_kernel()[0] if isinstance(layer, FusibleConv) else layer.weight
            magnitude = kernel.detach().cpu().double().abs().sum((0, 1))
            if not 0 < magnitude.max() < torch.inf:
                raise ValueError(
                    f"the kernels of {name or 'the model'!r} are all zero or hold NaN or infinite values: their "
                    "magnitude cannot be normalised by its maximum (Eq. 9)"
                )
            layers[name] = magnitude / magnitude.max()
    if not layers:
        found = ", ".join(f"{height}×{width}" for height, width in sorted(sizes)) or "none"
        raise ValueError(
            f"the model has no convolution with {kernel_size}×{kernel_size} kernels; its kernels: {found}. "
            "Choose `kernel_size` among the odd ones"
        )
    average = torch.stack(list(layers.values())).mean(0)
    return KernelMagnitude(_matrix(average), {name: _matrix(matrix) for name, matrix in layers.items()})


def _convolutions(model: nn.Module, name: str = "") -> dict[str, nn.Conv2d | FusibleConv]:
    """Yield convolutions by name; a block is one convolution, and a shared module has its first name."""
    if isinstance(model, (nn.Conv2d, FusibleConv)):
        return {name: model}
    layers: dict[str, nn.Conv2d | FusibleConv] = {}
    for child_name, child in model.named_children():
        for key, layer in _convolutions(child, f"{name}.{child_name}" if name else child_name).items():
            if all(layer is not other for other in layers.values()):
                layers[key] = layer
    return layers


def _matrix(tensor: Tensor) -> Matrix:
    return tuple(tuple(row) for row in tensor.tolist())
