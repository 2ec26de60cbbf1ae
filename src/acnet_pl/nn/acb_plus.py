"""ACBPlusBlock: the branches of ACB (ICCV 2019) and of RepVGG (CVPR 2021) in one block."""

from __future__ import annotations

from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, IdentityBranch
from acnet_pl.nn.branched import BranchedBuilder, BranchedConv
from acnet_pl.nn.conv_shape import ConvShape

__all__ = ["ACBPlusBlock", "ACBPlusConv"]


class ACBPlusBlock(BranchedConv):
    """k×k + 1×k + k×1 + 1×1 + identity, each with its batch norm, summed.

    The block strengthens the kernel's skeleton as an `ACBlock` does, and its centre as a `RepVGGBlock` does. It comes
    from no article. It has the identity branch if input and output have equally many channels and the stride is 1.

    Arguments, shapes and errors are those of `BranchedConv`.

    Examples:
        >>> import torch
        >>> block = ACBPlusBlock(8, 8, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    def branch_layers(self, shape: ConvShape) -> dict[str, BranchLayer]:  # noqa: D102
        k = shape.size
        layers: dict[str, BranchLayer] = {
            "square": ConvBranch(shape),
            "horizontal": ConvBranch(shape, (1, k)),
            "vertical": ConvBranch(shape, (k, 1)),
            "pointwise": ConvBranch(shape, (1, 1)),
        }
        return layers | IdentityBranch.where_fitting(shape)


class ACBPlusConv(BranchedBuilder):
    """Builds an ACBPlusBlock for every odd kernel of 3×3 or more; others stay plain. Options: `BranchedBuilder`'s."""

    kind = ACBPlusBlock
