"""RepVGGBlock: "RepVGG: Making VGG-style ConvNets Great Again" (Ding et al., CVPR 2021)."""

from __future__ import annotations

from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, IdentityBranch
from acnet_pl.nn.branched import BranchedBuilder, BranchedConv
from acnet_pl.nn.conv_shape import ConvShape

__all__ = ["RepVGGBlock", "RepVGGConv"]


class RepVGGBlock(BranchedConv):
    """k×k + 1×1 + identity, each with its batch norm, summed (Sect. 3.2, Fig. 2).

    The block has the identity branch if input and output have equally many channels and the stride is 1. The authors
    define the block for 3×3 kernels with padding 1; here any odd size, padding, dilation and padding mode is possible.

    Arguments, shapes and errors are those of `BranchedConv`.

    Examples:
        >>> import torch
        >>> block = RepVGGBlock(8, 8, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    def branch_layers(self, shape: ConvShape) -> dict[str, BranchLayer]:  # noqa: D102
        layers: dict[str, BranchLayer] = {"square": ConvBranch(shape), "pointwise": ConvBranch(shape, (1, 1))}
        return layers | IdentityBranch.where_fitting(shape)


class RepVGGConv(BranchedBuilder):
    """Builds a RepVGGBlock for every odd kernel of 3×3 or more; others stay plain. Options: `BranchedBuilder`'s."""

    kind = RepVGGBlock
