"""DBBlock: "Diverse Branch Block: Building a Convolution as an Inception-like Unit" (Ding et al., CVPR 2021)."""

from __future__ import annotations

from acnet_pl.nn.arguments import check_range
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch
from acnet_pl.nn.branched import BranchedBuilder, BranchedConv
from acnet_pl.nn.chain_branches import FilterBranch, PointwiseFirstBranch
from acnet_pl.nn.conv_shape import ConvShape

__all__ = ["DBBConv", "DBBlock"]


class DBBlock(BranchedConv):
    """k×k + 1×1 + (1×1-k×k) + (1×1-average), each with a batch norm after every layer, summed (Fig. 2).

    A depthwise block has no 1×1 branch, averages the input itself, and has two channels inside the 1×1-k×k branch for
    each input channel. The authors define the block for ``padding = k // 2`` without dilation; here any are possible.

    In train mode, as in the authors' code, the padding between two layers of a branch comes from the running statistics
    of the batch norm between them. Gradient checkpointing computes a step's outputs twice, the second time with the
    statistics that the first has moved on, so that its gradients differ from those without it.

    Arguments, shapes and errors are those of `BranchedConv`.

    Examples:
        >>> import torch
        >>> block = DBBlock(8, 16, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block.forward_branches(x), block.fuse()(x), atol=1e-5)
        True
    """

    def branch_layers(self, shape: ConvShape, *, internal_channels: int | None = None) -> dict[str, BranchLayer]:
        """Build the branches.

        Args:
            shape: The arguments of the block's convolution.
            internal_channels: Channels inside the 1×1-k×k branch; None is C_in, or 2·C_in for a depthwise block.
        """
        depthwise = shape.groups == shape.in_channels == shape.out_channels and shape.groups > 1
        inner = 2 * shape.in_channels if depthwise else shape.in_channels
        if internal_channels is not None:
            check_range("internal_channels", internal_channels, 1)
            inner = internal_channels
        layers: dict[str, BranchLayer] = {"square": ConvBranch(shape)}
        if not depthwise:
            layers["pointwise"] = ConvBranch(shape, (1, 1))
        layers["sequence"] = PointwiseFirstBranch(shape, inner)
        layers["average"] = FilterBranch(shape, "average" if depthwise else "1×1-average", pointwise=not depthwise)
        return layers


class DBBConv(BranchedBuilder):
    """Builds a DBBlock for every odd kernel of 3×3 or more; others stay plain. Options: `BranchedBuilder`'s."""

    kind = DBBlock
