from collections.abc import Callable

import torch
from torch import nn

from acnet_pl.backbones import CifarQuick
from acnet_pl.nn import ACBConv, PlainConv


def test_parameters_computed_by_hand(parameters: Callable[[nn.Module], int]) -> None:
    convs = 2400 + 25600 + 51200
    norms = 2 * (32 + 32 + 64)
    linears = 576 * 64 + 64 + 64 * 10 + 10
    assert parameters(CifarQuick(PlainConv(), 10)) == convs + norms + linears == 117_034


def test_feature_maps_are_32_15_7_and_3_pixels_wide() -> None:
    net = CifarQuick(PlainConv(), 10)
    widths = []
    for layer in (net.conv1, net.pool1, net.conv2, net.pool2, net.conv3, net.pool3):
        layer.register_forward_hook(lambda _, args, output: widths.append(output.shape[-1]))
    net(torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1))
    assert widths == [32, 15, 15, 7, 7, 3]


def test_all_convolutions_are_replaced(kinds: Callable[[nn.Module], tuple[list[str], list[str]]]) -> None:
    assert kinds(CifarQuick(ACBConv(asymmetric_size=3), 10)) == (["conv1", "conv2", "conv3"], [])
