"""OREPABlock: "Online Convolutional Re-parameterization" (Hu et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.chain_branches import FilterBranch, PointwiseFirstBranch, SeparableBranch
from acnet_pl.nn.conv import BlockConv
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import KernelDraw

__all__ = ["OREPABlock", "OREPAConv"]

SCALES: Mapping[str, float] = {
    "square": 0.25,
    "average": 0.25,
    "prior": 0.0,
    "sequence": 0.5,
    "pointwise": 1.0,
    "separable": 0.5,
}
"""Initial scales of the branches, as in the authors' code."""


class OREPABlock(BranchedConv):
    """Six linear branches with a scale each, combined into one kernel at every step, and one batch norm (Fig. 4).

    The branches are k×k; 1×1 and the average; 1×1 and the frequency prior; 1×1-k×k; 1×1; and depthwise k×k-1×1 with
    eight filters on each channel. A training step costs one convolution plus the computation of its kernel, which does
    not depend on the size of the images. The authors define the prior for 3×3 kernels; here any odd size is possible.

    Arguments, shapes and errors are those of `BranchedConv`.

    Examples:
        >>> import torch
        >>> block = OREPABlock(8, 8, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    scales = SCALES

    def branch_layers(self, shape: ConvShape) -> dict[str, BranchLayer]:  # noqa: D102
        inner = shape.in_channels if shape.groups <= 4 else 2 * shape.in_channels
        return {
            "square": ConvBranch(shape, norm="scale"),
            "average": FilterBranch(shape, "1×1-average", inner_norm=False, norm="scale"),
            "prior": FilterBranch(shape, "1×1-prior", frequency_prior, inner_norm=False, norm="scale"),
            "sequence": PointwiseFirstBranch(shape, inner, inner_norm=False, norm="scale"),
            "pointwise": ConvBranch(shape, (1, 1), norm="scale"),
            "separable": SeparableBranch(shape, 8, norm="scale"),
        }


def frequency_prior(channels: int, size: int) -> Tensor:
    """Return the cosines ``(channels, size, size)`` of the prior branch (Sect. 3.3).

    In the first half of the channels they vary from row to row, in the second half from column to column.
    """
    half, place = channels / 2, torch.arange(size) + 0.5
    filters = []
    for channel in range(channels):
        down = channel < half
        wave = torch.cos(math.pi * place * (channel + 1 if down else channel + 1 - half) / size)
        filters.append((wave[:, None] if down else wave).expand(size, size))
    return torch.stack(filters)


class OREPAConv(BlockConv):
    """Builds an OREPABlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain.

    The authors' new kernels are √6 times as long as those of "pytorch" (Kaiming-uniform with gain √2).

    Args:
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d, or "fan_out" (Kaiming-normal).
        paired: Give the network the same k×k kernels as the plain network built with the same seed.
    """

    kind = OREPABlock

    def __init__(self, draw: KernelDraw = "pytorch", paired: bool = True) -> None:
        self.draw: KernelDraw = draw
        self.paired = paired
