"""MobileOneBlock: "MobileOne: An Improved One Millisecond Mobile Backbone" (Vasu et al., CVPR 2023)."""

from __future__ import annotations

from acnet_pl.nn.arguments import check_range
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, IdentityBranch
from acnet_pl.nn.branched import BranchedBuilder, BranchedConv
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import KernelDraw

__all__ = ["MobileOneBlock", "MobileOneConv"]


class MobileOneBlock(BranchedConv):
    """n times k×k + 1×1 + identity, each with its batch norm, summed (Sect. 3.3, Fig. 3).

    The block has the 1×1 "scale" branch if k > 1, and the identity branch if input and output have equally many
    channels and the stride is 1. The article's network consists of pairs of a depthwise 3×3 block and a 1×1 block. The
    authors' branches ignore dilation; here all of them support it.

    Arguments, shapes and errors are those of `BranchedConv`.

    Examples:
        >>> import torch
        >>> block = MobileOneBlock(8, 8, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    pointwise = True

    def branch_layers(self, shape: ConvShape, *, copies: int = 4) -> dict[str, BranchLayer]:
        """Build the branches.

        Args:
            shape: The arguments of the block's convolution.
            copies: Number n of k×k branches, the article's over-parameterisation factor.
        """
        check_range("copies", copies, 1)
        layers: dict[str, BranchLayer] = {f"conv{n}": ConvBranch(shape) for n in range(copies)}
        if shape.size > 1:
            layers["scale"] = ConvBranch(shape, (1, 1))
        return layers | IdentityBranch.where_fitting(shape)


class MobileOneConv(BranchedBuilder):
    """Builds a MobileOneBlock for every odd kernel, including 1×1; even kernels stay plain.

    Args:
        copies: Number n of k×k branches; the article's smallest network has 4, the others 1.
        gamma_init: Initial γ of the branches' batch norms; the article uses 1.
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d, or "fan_out" (Kaiming-normal).
        paired: Give the network the same k×k kernels as the plain network built with the same seed.
    """

    kind = MobileOneBlock

    def __init__(
        self, copies: int = 4, gamma_init: float = 1.0, draw: KernelDraw = "pytorch", paired: bool = True
    ) -> None:
        super().__init__(gamma_init, draw, paired)
        self.copies = copies

    def why_plain(self, kernel_size: int) -> str:  # noqa: D102
        return "" if kernel_size == 1 else super().why_plain(kernel_size)
