"""OREPABlock: "Online Convolutional Re-parameterization" (Hu et al., CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, ConvShape
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.chain_branches import FilterBranch, PointwiseFirstBranch, SeparableBranch
from acnet_pl.nn.conv import BlockConv
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
"""Initial scales of the branches, the authors'."""


class OREPABlock(BranchedConv):
    """Six linear branches with a scale each, made into one kernel at every step, and one batch norm (Fig. 4).

    The branches are k×k; 1×1 and the average; 1×1 and the frequency prior; 1×1-k×k; 1×1; and depthwise k×k-1×1 with
    eight filters on each channel. A training step so costs one convolution, and the making of its kernel, which does
    not depend on the size of the images. The authors' prior is for 3×3 kernels;
    here it is defined for every odd size.

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, as ``nn.Conv2d`` with the same arguments.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, odd and at least 3.
        stride: As nn.Conv2d's.
        padding: As nn.Conv2d's.
        dilation: As nn.Conv2d's.
        groups: As nn.Conv2d's.
        padding_mode: As nn.Conv2d's.
        draw: As `BranchedConv`'s.
        paired: As `BranchedConv`'s.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> block = OREPABlock(8, 8, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
    ) -> None:
        shape = ConvShape.of(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        inner = in_channels if groups <= 4 else 2 * in_channels
        prior = frequency_prior(out_channels, shape.size)
        layers: dict[str, BranchLayer] = {
            "square": ConvBranch(shape, norm="scale"),
            "average": FilterBranch(shape, "1×1-average", inner_norm=False, norm="scale"),
            "prior": FilterBranch(shape, "1×1-prior", prior, inner_norm=False, norm="scale"),
            "sequence": PointwiseFirstBranch(shape, inner, inner_norm=False, norm="scale"),
            "pointwise": ConvBranch(shape, (1, 1), norm="scale"),
            "separable": SeparableBranch(shape, 8, norm="scale"),
        }
        super().__init__(shape, layers, gamma_init=SCALES, draw=draw, paired=paired)


def frequency_prior(channels: int, size: int) -> Tensor:
    """Return the cosines ``(channels, size, size)`` of the prior branch (Sect. 3.3).

    Those of the first half of the channels go down the window, those of the second half across it.
    """
    half, place = channels / 2, torch.arange(size) + 0.5
    filters = []
    for channel in range(channels):
        down = channel < half
        wave = torch.cos(math.pi * place * (channel + 1 if down else channel + 1 - half) / size)
        filters.append((wave[:, None] if down else wave).expand(size, size))
    return torch.stack(filters)


class OREPAConv(BlockConv):
    """An OREPABlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain.

    The authors draw all kernels √6 times as long as "pytorch" does (Kaiming-uniform with gain √2).

    Args:
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's, or "fan_out" (Kaiming-normal).
        paired: Give the network of a seed the k×k kernels that the plain network of that seed has.
    """

    def __init__(self, draw: KernelDraw = "pytorch", paired: bool = True) -> None:
        self.draw: KernelDraw = draw
        self.paired = paired

    def block(  # noqa: D102
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: IntPair,
        padding: Padding,
        dilation: IntPair,
        groups: int,
        padding_mode: PaddingMode,
    ) -> OREPABlock:
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return OREPABlock(*shape, draw=self.draw, paired=self.paired)
