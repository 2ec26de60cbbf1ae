"""DBBlock: "Diverse Branch Block: Building a Convolution as an Inception-like Unit" (Ding et al., CVPR 2021)."""

from __future__ import annotations

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, ConvShape
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.chain_branches import FilterBranch, PointwiseFirstBranch
from acnet_pl.nn.conv import BlockConv
from acnet_pl.nn.draw import KernelDraw

__all__ = ["DBBConv", "DBBlock"]


class DBBlock(BranchedConv):
    """k×k + 1×1 + (1×1-k×k) + (1×1-average), each with a batch norm after every layer, summed (Fig. 2).

    A depthwise block has no 1×1 branch, and averages the input itself; it has two channels inside the 1×1-k×k branch
    for each input channel. The authors have this for ``padding = k // 2`` and no dilation; here it is defined for all.

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
        internal_channels: Channels inside the 1×1-k×k branch; None is C_in, and twice that for a depthwise block.
        gamma_init: Initial γ of the last batch norm of each branch.
        draw: As `BranchedConv`'s.
        paired: As `BranchedConv`'s.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> block = DBBlock(8, 16, 3, padding=1).eval()
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
        internal_channels: int | None = None,
        gamma_init: float = 1.0,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
    ) -> None:
        shape = ConvShape.of(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        depthwise = groups == in_channels == out_channels and groups > 1
        inner = internal_channels or (2 * in_channels if depthwise else in_channels)
        layers: dict[str, BranchLayer] = {"square": ConvBranch(shape)}
        if not depthwise:
            layers["pointwise"] = ConvBranch(shape, (1, 1))
        layers["sequence"] = PointwiseFirstBranch(shape, inner)
        layers["average"] = FilterBranch(shape, "average" if depthwise else "1×1-average", pointwise=not depthwise)
        super().__init__(shape, layers, gamma_init=gamma_init, draw=draw, paired=paired)


class DBBConv(BlockConv):
    """A DBBlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain. Options as `DBBlock`'s.

    Args:
        gamma_init: Initial γ of the last batch norm of each branch; the article has 1.
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's and the authors', or "fan_out" (Kaiming-normal).
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
    ) -> DBBlock:
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return DBBlock(*shape, gamma_init=self.gamma_init, draw=self.draw, paired=self.paired)
