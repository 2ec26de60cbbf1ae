from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.analysis import complexity
from acnet_pl.nn import ACBConv, ACBlock, ConvBuilder, PlainConv, fuse_model
from acnet_pl.nn.acb import BranchNorm


def _by_hand(weights_per_position: int) -> int:
    """Of the small net on 10×10 images; 3×3 layers after the stride see 5×5."""
    five, three = {0: (25, 9), 1: (25 + 5 + 5, 9 + 3 + 3)}[weights_per_position]
    return 100 * 3 * 4 * five + 25 * 4 * 6 * three + 25 * 6 * 6 + 25 * 6 * 8 * three + 32 * 7


@pytest.mark.parametrize(("conv", "branches"), [(PlainConv(), 0), (ACBConv(), 1)])
@pytest.mark.parametrize("training", [True, False])
def test_macs_count_every_branch_of_the_model_as_given(
    small_net: Callable[..., nn.Module], conv: ConvBuilder, branches: int, training: bool
) -> None:
    net = small_net(conv).train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost = complexity(net, (3, 10, 10))
    assert cost.macs == _by_hand(branches)
    assert cost.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert all(module.training == training for module in net.modules())
    assert not any(block.explicit for block in net.modules() if isinstance(block, ACBlock))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_fused_acnet_costs_what_the_fused_plain_net_costs(small_net: Callable[..., nn.Module]) -> None:
    plain, acnet = (complexity(fuse_model(small_net(conv)), (3, 12, 8)) for conv in (PlainConv(), ACBConv()))
    assert acnet == plain


@pytest.mark.parametrize("branch_norm", [True, False, "scale"])
def test_macs_are_those_of_the_forward_pass_in_training(
    small_net: Callable[..., nn.Module], branch_norm: BranchNorm
) -> None:
    net = small_net(ACBConv(branch_norm=branch_norm)).train()
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(2, 3, 10, 10))
    assert complexity(net, (3, 10, 10)).macs == counter.get_total_flops() // 2 // 2
    one_conv_a_block = complexity(net, (3, 10, 10)).macs == complexity(small_net(PlainConv()), (3, 10, 10)).macs
    assert one_conv_a_block == (branch_norm is not True)


def test_macs_of_a_share_of_the_batch(small_net: Callable[..., nn.Module]) -> None:
    net = small_net(ACBConv(statistics_share=0.25)).train()
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(8, 3, 10, 10))
    assert complexity(net, (3, 10, 10)).macs == counter.get_total_flops() // 2 // 8


@pytest.mark.parametrize("groups", [1, 4])
def test_a_single_layer_by_hand(groups: int) -> None:
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups, bias=True)
    cost = complexity(layer, (4, 9, 7))
    assert cost.macs == 5 * 4 * 8 * (4 // groups) * 9
    assert cost.parameters == 8 * (4 // groups) * 9 + 8
    assert cost.as_dict() == {"parameters": cost.parameters, "macs": cost.macs, "input_shape": (4, 9, 7)}


def test_it_prints_millions() -> None:
    text = str(complexity(nn.Conv2d(100, 100, 10, bias=False), (100, 10, 10)))
    assert text == "1.000 M parameters, 1.00 M multiply-accumulates for 100×10×10"
