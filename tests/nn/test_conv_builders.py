from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, ConvNorm, FusibleConv, FusionError, PlainConv

BUILDERS: list[ConvBuilder] = [
    PlainConv(),
    ACBConv(),
    ACBConv(horizontal=False),
    ACBConv(branch_norm=False),
    ACBConv(branch_norm="scale", gamma_init=0.5),
    ACBConv(position="border"),
    ACBConv(asymmetric_size=3, gamma_init=1 / 3),
    ACBConv(statistics_share=0.125, at_once=True),
]
LAYERS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "norm": False},
    {"kernel_size": 1},
    {"kernel_size": 1, "norm": False},
    {"kernel_size": 4, "stride": 2},
]


def randomise(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.load_state_dict({name: torch.rand_like(t.float()) + 0.5 for name, t in norm.state_dict().items()})


@pytest.mark.parametrize("builder", BUILDERS, ids=repr)
@pytest.mark.parametrize("layer", LAYERS)
def test_builds_a_layer_that_fuses_to_the_plain_structure(builder: ConvBuilder, layer: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = builder(4, 6, **layer)
    assert isinstance(module, FusibleConv)
    randomise(module)
    module = module.double().eval()
    arguments = {name: value for name, value in layer.items() if name != "norm"}
    plain = nn.Conv2d(4, 6, **arguments)
    fused = module.fuse()
    assert repr(fused) == repr(plain)
    x = torch.randn(2, 4, 11, 11, dtype=torch.float64)
    expected = module.forward_branches(x) if isinstance(module, ACBlock) else module(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-12, atol=1e-12 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("norm", [True, False])
def test_plain_layer_is_a_convolution_and_its_batch_norm(norm: bool) -> None:
    torch.manual_seed(0)
    layer = PlainConv()(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, norm=norm)
    assert isinstance(layer, ConvNorm)
    randomise(layer)
    reference = nn.Conv2d(4, 6, 3, 2, 1, 2, 2, bias=False)
    reference.weight = layer.conv.weight
    x = torch.randn(3, 4, 9, 9)
    expected = reference(x)
    if norm:
        assert layer.norm is not None
        expected = copy.deepcopy(layer.norm)(expected)
    torch.testing.assert_close(layer(x), expected)
    assert len(list(layer.norms())) == norm
    assert [kernel is layer.conv.weight for kernel in layer.kernels()] == [True]


@pytest.mark.parametrize(
    ("kernel_size", "kind"), [(1, ConvNorm), (2, ConvNorm), (3, ACBlock), (4, ConvNorm), (7, ACBlock)]
)
def test_asymmetric_blocks_where_a_kernel_has_a_skeleton(kernel_size: int, kind: type) -> None:
    assert type(ACBConv()(4, 4, kernel_size)) is kind
    assert type(PlainConv()(4, 4, kernel_size)) is ConvNorm


def test_options_reach_the_block() -> None:
    builder = ACBConv(vertical=False, asymmetric_size=3, gamma_init=0.25)
    block = builder(4, 8, 5, stride=2, padding=1, dilation=2, groups=4)
    assert isinstance(block, ACBlock)
    assert (block.stride, block.padding, block.dilation, block.groups) == ((2, 2), (1, 1), (2, 2), 4)
    assert block.vertical is None
    assert block.horizontal is not None
    assert block.horizontal.kernel_size == (1, 3)
    assert all((norm.weight == 0.25).all() for norm in block.norms())
    after_sum = ACBConv(branch_norm=False)(4, 8, 3)
    assert isinstance(after_sum, ACBlock)
    assert after_sum.norm is not None
    share = ACBConv(statistics_share=0.25)(4, 8, 3)
    assert isinstance(share, ACBlock)
    assert share.statistics_share == 0.25
    border = ACBConv(position="border")(4, 8, 3)
    assert isinstance(border, ACBlock)
    assert border.position == "border"


def test_fused_plain_layer_is_a_copy() -> None:
    layer = ConvNorm(4, 6, 3, norm=False).double()  # neither norm nor cast makes a copy
    fused = layer.fuse()
    assert fused.weight.data_ptr() != layer.conv.weight.data_ptr()
    assert torch.equal(fused.weight, layer.conv.weight)
    assert fused.bias is not None
    assert not fused.bias.any()


def test_plain_layer_in_train_mode_is_not_fused() -> None:
    with pytest.raises(FusionError, match=r"train mode.*model.eval\(\)"):
        ConvNorm(4, 6, 3).fuse()


def test_representation_says_how_to_make_it_again() -> None:
    assert repr(PlainConv("fan_out")) == "PlainConv(draw='fan_out')"
    for builder in BUILDERS:
        again = eval(repr(builder), {"ACBConv": ACBConv, "PlainConv": PlainConv})
        assert vars(again) == vars(builder)


def test_bad_arguments_of_a_plain_layer() -> None:
    with pytest.raises(ValueError, match="divisible by groups"):
        ConvNorm(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="odd, at least 3 and at most"):
        ACBConv(asymmetric_size=5)(4, 4, 3)
