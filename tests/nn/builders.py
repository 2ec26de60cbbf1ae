"""The conv builders whose blocks every test of what blocks have in common runs through. Imports torch alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from acnet_pl.nn import (
    ACBConv,
    ACBPlusConv,
    BlockConv,
    ConvBuilder,
    DBBConv,
    FusibleConv,
    MobileOneConv,
    OREPAConv,
    RepVGGConv,
)
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.chain_branches import FilterBranch
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.fusible import Branch, Fused, exact, fuse_norm


class Twice(FusibleConv):
    """The smallest block there is: two convolutions of one shape, each with its batch norm."""

    def __init__(self, i: int, o: int, k: int, *geometry: Any) -> None:
        make: Any = nn.Conv2d
        convs = [make(i, o, k, *geometry[:4], bias=False, padding_mode=geometry[4]) for _ in range(2)]
        like = convs[0]
        shape = (like.kernel_size, like.stride, like.padding, like.dilation, like.groups, like.padding_mode)
        super().__init__(i, o, *shape)
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(o) for _ in range(2))
        self.register_module("norm", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_branches(x)

    def forward_branches(self, x: Tensor) -> Tensor:
        first, second = (norm(conv(x)) for conv, norm in zip(self.convs, self.bns, strict=True))
        out: Tensor = first + second
        return out

    def branches(self) -> list[Branch]:
        weights: list[Any] = [conv.weight for conv in self.convs]
        return [Branch(str(n), "k×k", (weights[n],), self.bns[n]) for n in range(2)]

    def fuse_branches(self) -> dict[str, Fused]:
        return {str(n): fuse_norm(exact(b.kernels[0]), None, self.bns[n]) for n, b in enumerate(self.branches())}


class TwiceConv(BlockConv):
    kind = Twice


class ScaledAverage(BranchedConv):
    """Branches with scales and one batch norm after the sum, as OREPA, but with a batch norm inside a branch too."""

    def branch_layers(self, shape: ConvShape) -> dict[str, BranchLayer]:
        return {"square": ConvBranch(shape, norm="scale"), "average": FilterBranch(shape, "average", norm="scale")}


class ScaledAverageConv(BlockConv):
    kind = ScaledAverage


BUILDERS: list[ConvBuilder] = [
    TwiceConv(),
    ACBConv(gamma_init=1 / 3),
    ACBConv(branch_norm=False, vertical=False),
    ACBConv(branch_norm="scale", gamma_init=0.5),
    ACBConv(position="border"),
    ACBConv(asymmetric_size=3),
    ACBPlusConv(gamma_init=0.2),
    DBBConv(),
    MobileOneConv(copies=2),
    OREPAConv(),
    RepVGGConv(),
    ScaledAverageConv(),
]
