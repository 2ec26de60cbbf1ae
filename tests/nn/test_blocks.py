"""Blocks of other articles against their definitions, written here with PyTorch's functions on the padded input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn import (
    ACBConv,
    ACBPlusBlock,
    ACBPlusConv,
    ConvNorm,
    DBBlock,
    FusibleConv,
    MobileOneBlock,
    MobileOneConv,
    OREPABlock,
    RepVGGBlock,
    RepVGGConv,
    convert,
)
from acnet_pl.nn.branch_layers import BranchLayer, ConvBranch, IdentityBranch
from acnet_pl.nn.branched import BranchedConv
from acnet_pl.nn.chain_branches import PointwiseFirstBranch
from acnet_pl.nn.composition import identity_kernel
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.orepa import SCALES
from acnet_pl.nn.scale import ChannelScale

BLOCKS: list[Callable[..., FusibleConv]] = [ACBPlusBlock, DBBlock, MobileOneBlock, OREPABlock, RepVGGBlock]
SHAPES: list[dict[str, Any]] = [
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, "stride": (2, 1)},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 0, "groups": 2},
    {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6},
    {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 3},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 5, "padding": (4, 1)},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": "same", "dilation": 2},
    {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": (3, 2), "dilation": (1, 2), "stride": 2},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 5, "padding": 2, "padding_mode": "circular", "groups": 4},
]


def randomised(block: Any) -> Any:
    for module in block.modules():
        if isinstance(module, (_BatchNorm, ChannelScale)):
            for name, tensor in module.state_dict().items():
                tensor.copy_(torch.rand_like(tensor.double()) + (0.5 if name != "running_mean" else -0.5))
    return block.double().eval()


class Definition:
    """What the articles say, on an input padded beforehand, so that each layer pads with what the last makes of 0."""

    def __init__(self, block: Any, x: Tensor) -> None:
        self.block, self.dilation, self.k = block, block.dilation, block.kernel_size[0]
        shape = (block.kernel_size, block.stride, block.dilation)
        like = nn.Conv2d(4, 4, shape[0], 1, block.padding, shape[2], padding_mode=block.padding_mode)
        amounts = like._reversed_padding_repeated_twice
        self.x = F.pad(x, amounts, mode="constant" if block.padding_mode == "zeros" else block.padding_mode)

    def conv(self, x: Tensor, weight: Tensor, last: bool = True, groups: int | None = None) -> Tensor:
        """Convolve; a smaller kernel is embedded by cropping the window's margin off the input."""
        block = self.block
        if last:
            height, width = ((self.k - n) // 2 * d for n, d in zip(weight.shape[2:], self.dilation, strict=True))
            x = x[..., height : x.shape[2] - height, width : x.shape[3] - width]
        stride, dilation = (block.stride, block.dilation) if last else (1, 1)
        return F.conv2d(x, weight, None, stride, 0, dilation, block.groups if groups is None else groups)

    def norm(self, x: Tensor, norm: Any) -> Tensor:
        if isinstance(norm, ChannelScale):
            return x * norm.weight[:, None, None]
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def centre(self) -> Tensor:
        """The input at the centres of the windows, for an identity."""
        height, width = (self.k // 2 * d for d in self.dilation)
        return self.x[..., height : self.x.shape[2] - height, width : self.x.shape[3] - width]

    def average(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return self.conv(x, torch.full((channels, 1, self.k, self.k), 1 / self.k**2, dtype=x.dtype), groups=channels)

    def __call__(self) -> Tensor:
        return sum(self.norm(out, self.block.layers[name].norm) for name, out in self.branches().items())  # type: ignore

    def branches(self) -> dict[str, Tensor]:
        out = {}
        for name, layer in self.block.layers.items():
            if name == "identity":
                out[name] = self.centre()
            elif name in ("average", "prior"):
                inner = self.x if layer.conv is None else self.conv(self.x, layer.conv.weight, last=False)
                inner = inner if layer.inner.bn is None else self.norm(inner, layer.inner.bn)
                out[name] = self.average(inner) if name == "average" else self.prior(inner)
            elif name == "sequence":
                channels, width = layer.pointwise.weight.shape[:2]
                eye = torch.zeros(channels, width, 1, 1, dtype=self.x.dtype)
                for i in range(channels):
                    eye[i, i % width] = 1
                inner = self.conv(self.x, layer.pointwise.weight + eye, last=False)
                inner = inner if layer.inner.bn is None else self.norm(inner, layer.inner.bn)
                out[name] = self.conv(inner, layer.conv.weight)
            elif name == "separable":
                inner = self.conv(self.x, layer.depthwise.weight, groups=self.block.in_channels)
                out[name] = F.conv2d(inner, layer.pointwise.weight, groups=self.block.groups)
            else:
                out[name] = self.conv(self.x, layer.conv.weight)
        return out

    def prior(self, x: Tensor) -> Tensor:
        channels, k = x.shape[1], self.k
        filters = torch.zeros(channels, 1, k, k, dtype=x.dtype)
        for c in range(channels):
            for h in range(k):
                for w in range(k):
                    place, wave = (h, c + 1) if c < channels / 2 else (w, c + 1 - channels / 2)
                    filters[c, 0, h, w] = math.cos(math.pi * (place + 0.5) * wave / k)
        return self.conv(x, filters, groups=channels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", BLOCKS)
def test_computes_and_fuses_to_what_the_article_defines(make: Any, shape: dict[str, Any]) -> None:
    block = randomised(make(**shape))
    for layer in block.layers.values():
        for kernel in layer.kernels():
            nn.init.normal_(kernel)
    x = torch.randn(3, shape["in_channels"], 11, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = Definition(block, x)()
        expected = expected if block.norm is None else Definition(block, x).norm(expected, block.norm)
        tolerance = 1e-5 if make is OREPABlock else 1e-11  # its cosines are of float32
        torch.testing.assert_close(block.forward_branches(x), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(block.fuse()(x), block.forward_branches(x), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(block(x), block.forward_branches(x), rtol=1e-11, atol=1e-11)
    conv = block.fuse()
    names = ("in_channels", "out_channels", "stride", "padding", "dilation", "groups", "padding_mode")
    assert all(getattr(conv, name) == getattr(block, name) for name in names)


def test_depthwise_blocks_have_the_branches_of_their_articles() -> None:
    titles = {make: [branch.title for branch in make(6, 6, 3, padding=1, groups=6).branches()] for make in BLOCKS}
    assert titles[DBBlock] == ["3×3", "1×1-3×3", "average"]
    assert titles[RepVGGBlock] == ["3×3", "1×1", "identity"]
    assert titles[MobileOneBlock] == ["3×3"] * 4 + ["1×1", "identity"]
    inner = DBBlock(6, 6, 3, padding=1, groups=6).get_submodule("layers.sequence.pointwise")
    assert inner.weight.shape == (12, 1, 1, 1)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("make", BLOCKS)
def test_identity_only_where_shapes_agree(make: Any) -> None:
    has = {(o, s): "identity" in make(4, o, 3, s, 1).layers for o, s in ((4, 1), (8, 1), (4, 2))}
    named = make in (ACBPlusBlock, MobileOneBlock, RepVGGBlock)
    assert has == {(4, 1): named, (8, 1): False, (4, 2): False}


def test_statistics_inside_a_sequence_are_of_the_image_without_its_border() -> None:
    block: Any = DBBlock(4, 6, 3, padding=1).double()
    x = torch.randn(5, 4, 7, 7, dtype=torch.float64) + 3
    block(x)
    inner = block.layers["sequence"].inner.bn  # after one step of momentum 0.1, of the input itself
    torch.testing.assert_close(inner.running_mean, 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(inner.running_var, 0.9 + 0.1 * x.transpose(0, 1).flatten(1).var(1))


def test_a_new_sequence_begins_with_the_identity_and_orepa_with_its_scales() -> None:
    block: Any = DBBlock(4, 4, 3, padding=1, groups=2)
    assert not block.layers["sequence"].pointwise.weight.any()
    assert torch.equal(identity_kernel(4, 4, 2)[:, :, 0, 0], torch.eye(2).repeat(2, 1))
    online: Any = OREPABlock(4, 4, 3, padding=1)
    assert {name: layer.norm.weight[0].item() for name, layer in online.layers.items()} == SCALES


def test_mobileone_takes_pointwise_convolutions_and_leaves_even_ones() -> None:
    builder = MobileOneConv(copies=3)
    block: Any = randomised(builder(4, 4, 1))
    assert isinstance(block, MobileOneBlock)
    assert list(block.layers) == ["conv0", "conv1", "conv2", "identity"]
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(block.fuse()(x), block.forward_branches(x), rtol=1e-12, atol=1e-12)
    assert isinstance(builder(4, 4, 2), ConvNorm)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 2))
    kinds = [type(layer).__name__ for layer in convert(model, builder).children()]
    assert kinds == ["MobileOneBlock", "MobileOneBlock", "Conv2d"]


@pytest.mark.parametrize("make", BLOCKS)
def test_a_network_of_blocks_begins_with_the_kernels_of_the_plain_one(make: Any) -> None:
    torch.manual_seed(3)
    plain = ConvNorm(4, 6, 3, padding=1)
    after = torch.rand(1)
    torch.manual_seed(3)
    block = make(4, 6, 3, padding=1)
    assert torch.equal(block.branches()[0].kernels[0], plain.conv.weight)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(3)
    apart = make(4, 6, 3, padding=1, paired=False)
    assert not torch.equal(torch.rand(1), after)
    assert torch.equal(apart.branches()[0].kernels[0], plain.conv.weight)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`kernel_size` \(=2\) must be odd"):
        RepVGGBlock(4, 4, 2)
    with pytest.raises(ValueError, match=r"`in_channels` \(=3\) must be divisible by `groups` \(=2\)"):
        OREPABlock(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match=r"`copies` \(=0\) must be at least 1"):
        MobileOneConv(copies=0)(4, 4, 3)
    with pytest.raises(ValueError, match=r"`copies` \(=1.5\) must be an int, at least 1"):
        MobileOneConv(copies=1.5)(4, 4, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`internal_channels` \(=0\) must be at least 1"):
        DBBlock(4, 4, 3, internal_channels=0)
    with pytest.raises(ValueError, match=r"none for horizontal, identity, pointwise, vertical"):
        ACBPlusConv(gamma_init={"square": 1.0})(4, 4, 3)  # type: ignore[arg-type]
    branches = ("square", "horizontal", "vertical", "pointwise", "identity")
    with pytest.raises(ValueError, match=r"`gamma_init\['identity'\]` \(='1'\) must be a finite number"):
        ACBPlusConv(gamma_init={**dict.fromkeys(branches, 1), "identity": "1"})(4, 4, 3)  # type: ignore[arg-type]
    for conv in (ACBConv, RepVGGConv):
        with pytest.raises(ValueError, match=r"`gamma_init` \(=nan\) must be a finite number"):
            conv(gamma_init=math.nan)(4, 4, 3)
    with pytest.raises(ValueError, match=r"`kernel_size` \(=0\) must be at least 1"):
        RepVGGConv()(4, 4, 0)
    with pytest.raises(ValueError, match=r"`kernel_size` \(=1×3\) must be square"):
        RepVGGConv()(4, 4, (1, 3))  # type: ignore[arg-type]
    assert RepVGGConv()(4, 4, (3, 3)).kernel_size == (3, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`internal_channels` \(=3\) must be positive and divisible by `groups`"):
        DBBlock(4, 4, 3, groups=2, internal_channels=3)
    with pytest.raises(ValueError, match="`draw`"):
        DBBlock(4, 4, 3, draw="normal")  # type: ignore[arg-type]


class Listed(BranchedConv):
    def branch_layers(self, shape: ConvShape, make: Any = dict) -> dict[str, BranchLayer]:
        layers: dict[str, BranchLayer] = make(shape)
        return layers


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda shape: {}, "no branch"),
        (lambda shape: {"a": ConvBranch(shape, (1, 3)), "b": ConvBranch(shape)}, "`1×3` first"),
        (lambda shape: {**IdentityBranch.where_fitting(shape), "b": ConvBranch(shape)}, "`identity` first"),
        (lambda shape: {"a": PointwiseFirstBranch(shape, 4), "b": ConvBranch(shape)}, "`1×1-3×3` first"),
    ],
)
def test_the_first_branch_has_the_whole_kernel(make: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"Listed.branch_layers gives {what}, and must give a ConvBranch"):
        Listed(4, 4, 3, padding=1, make=make)


def test_a_window_is_not_rounded_for_good() -> None:
    block = OREPABlock(4, 4, 3)
    window = block.layers["prior"].window
    assert isinstance(window, Tensor)
    before = window.clone()
    block.bfloat16().float()
    assert torch.equal(block.layers["prior"].window, before)  # type: ignore[arg-type]
