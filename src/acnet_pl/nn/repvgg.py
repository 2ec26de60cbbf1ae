"""RepVGGBlock: "RepVGG: Making VGG-style ConvNets Great Again" (Ding et al., CVPR 2021)."""

from __future__ import annotations

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, ConvShape, IdentityBranch
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.conv import BlockConv
from acnet_pl.nn.draw import KernelDraw

__all__ = ["RepVGGBlock", "RepVGGConv"]


class RepVGGBlock(BranchedConv):
    """k×k + 1×1 + identity, each with its batch norm, summed (Sect. 3.2, Fig. 2).

    The identity is there where input and output have as many channels and the stride is 1. The authors have this for
    3×3 kernels with padding 1; here it is defined for every odd size, padding, dilation and padding mode.

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
        gamma_init: Initial γ of the branches' batch norms.
        draw: As `BranchedConv`'s.
        paired: As `BranchedConv`'s.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> block = RepVGGBlock(8, 8, 3, padding=1).eval()
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
        gamma_init: float = 1.0,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
    ) -> None:
        shape = ConvShape.of(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        layers: dict[str, BranchLayer] = {"square": ConvBranch(shape), "pointwise": ConvBranch(shape, (1, 1))}
        if IdentityBranch.fits(shape):
            layers["identity"] = IdentityBranch(shape)
        super().__init__(shape, layers, gamma_init=gamma_init, draw=draw, paired=paired)


class RepVGGConv(BlockConv):
    """A RepVGGBlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain. Options as `RepVGGBlock`'s.

    Args:
        gamma_init: Initial γ of the branches' batch norms; the article has 1.
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's, or "fan_out" (Kaiming-normal).
        paired: Give the network of a seed the k×k kernels that the plain network of that seed has.
    """

    def __init__(self, gamma_init: float = 1.0, draw: KernelDraw = "pytorch", paired: bool = True) -> None:
        self.gamma_init = gamma_init
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
    ) -> RepVGGBlock:
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return RepVGGBlock(*shape, gamma_init=self.gamma_init, draw=self.draw, paired=self.paired)
