"""Evaluate all branches of an ACBlock with one convolution: norms frozen, statistics of a share, or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.at_once import normalise_and_add, side_by_side
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.fusible import Fused
from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.kernel_sum import fuse_frozen, sum_kernels
from acnet_pl.nn.share import normalise_sum, share_statistics, take_images

__all__ = ["Layer", "fuse_layers", "sum_scaled", "train_at_once", "train_by_share"]


class Layer(NamedTuple):
    """One branch of an ACBlock: its name, convolution, batch norm or scale, and place in the window."""

    name: str
    conv: nn.Conv2d
    norm: nn.Module | None
    geometry: BranchGeometry


def sum_scaled(layers: Sequence[Layer], scales: Sequence[Tensor | None]) -> Tensor:
    """Return the sum ``(O, I/groups, k, k)`` of the kernels, each times a factor ``(O, 1, 1, 1)``; None is 1."""
    kernels = [layer.conv.weight for layer in layers]
    return sum_kernels(kernels, scales, [layer.geometry for layer in layers]).to(kernels[0].dtype)


def fuse_layers(layers: Sequence[Layer], norm: _BatchNorm | None) -> Fused:
    """Return the fused kernel and bias of branches whose norms are in eval mode, in their own precision.

    Args:
        layers: The branches.
        norm: The batch norm after their sum, also in eval mode; None if there is none.
    """
    _, convs, norms, geometries = zip(*layers, strict=True)
    kernels = [conv.weight for conv in convs]
    kernel, bias = fuse_frozen(kernels, [None] * len(kernels), norms, geometries, norm)
    kernel = kernel.to(kernels[0].dtype)
    return kernel, kernel.new_zeros(kernel.shape[0]) if bias is None else bias.to(kernel.dtype)


def train_by_share(shape: ConvShape, layers: Sequence[Layer], x: Tensor, count: int, at_once: bool) -> Tensor:
    """Convolve a padded input with the kernels, scaled and added by the first images' statistics, and normalise."""
    norms = _batch_norms(layers)
    x, part = take_images(x, count)
    if at_once:
        outputs = [_side_by_side(shape, layers, part)]
    else:
        outputs = [layer.conv(layer.geometry.pad_or_crop(part)) for layer in layers]
    of = share_statistics(norms, outputs)
    kernel = sum_scaled(layers, of.scale.view(*of.scale.shape, 1, 1, 1).unbind())
    return normalise_sum(norms, of, shape.convolve(x, kernel), count)


def train_at_once(shape: ConvShape, layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Convolve a padded input with all kernels at once, normalise the outputs with one batch norm, and add them."""
    return normalise_and_add(_batch_norms(layers), _side_by_side(shape, layers, x))


def _side_by_side(shape: ConvShape, layers: Sequence[Layer], x: Tensor) -> Tensor:
    kernels = side_by_side([layer.conv.weight for layer in layers], [layer.geometry for layer in layers])
    return shape.convolve(x, kernels)


def _batch_norms(layers: Sequence[Layer]) -> list[_BatchNorm]:
    return [layer.norm for layer in layers if isinstance(layer.norm, _BatchNorm)]
