"""MobileOneBlock: "MobileOne: An Improved One Millisecond Mobile Backbone" (Vasu et al., CVPR 2023)."""

from __future__ import annotations

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode, check_range
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, ConvShape, IdentityBranch
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.conv import BlockConv
from acnet_pl.nn.draw import KernelDraw

__all__ = ["MobileOneBlock", "MobileOneConv"]


class MobileOneBlock(BranchedConv):
    """n times k×k + 1×1 + identity, each with its batch norm, summed (Sect. 3.3, Fig. 3).

    The 1×1 "scale" branch is there for k > 1, the identity where input and output have as many channels and the stride
    is 1. The article's network is of pairs of a depthwise 3×3 block and a 1×1 one. The authors' branches ignore the
    dilation; here it is defined for all.

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, as ``nn.Conv2d`` with the same arguments.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, odd.
        stride: As nn.Conv2d's.
        padding: As nn.Conv2d's.
        dilation: As nn.Conv2d's.
        groups: As nn.Conv2d's.
        padding_mode: As nn.Conv2d's.
        copies: Number n of k×k branches, the article's over-parameterisation factor.
        gamma_init: Initial γ of the branches' batch norms.
        draw: As `BranchedConv`'s.
        paired: As `BranchedConv`'s.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> block = MobileOneBlock(8, 8, 3, padding=1).eval()
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
        copies: int = 4,
        gamma_init: float = 1.0,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
    ) -> None:
        shape = ConvShape.of(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, pointwise=True
        )
        check_range("copies", copies, 1)
        layers: dict[str, BranchLayer] = {f"conv{n}": ConvBranch(shape) for n in range(copies)}
        if shape.size > 1:
            layers["scale"] = ConvBranch(shape, (1, 1))
        if IdentityBranch.fits(shape):
            layers["identity"] = IdentityBranch(shape)
        super().__init__(shape, layers, gamma_init=gamma_init, draw=draw, paired=paired)


class MobileOneConv(BlockConv):
    """A MobileOneBlock for every odd kernel, 1×1 included; even kernels stay plain. Options as `MobileOneBlock`'s.

    Args:
        copies: Number n of k×k branches; the article's smallest network has 4, the others 1.
        gamma_init: Initial γ of the branches' batch norms; the article has 1.
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's, or "fan_out" (Kaiming-normal).
        paired: Give the network of a seed the k×k kernels that the plain network of that seed has.
    """

    def __init__(
        self, copies: int = 4, gamma_init: float = 1.0, draw: KernelDraw = "pytorch", paired: bool = True
    ) -> None:
        self.copies = copies
        self.gamma_init = gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired

    def why_plain(self, kernel_size: int) -> str:  # noqa: D102
        return "" if kernel_size == 1 else super().why_plain(kernel_size)

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
    ) -> MobileOneBlock:
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return MobileOneBlock(
            *shape, copies=self.copies, gamma_init=self.gamma_init, draw=self.draw, paired=self.paired
        )
