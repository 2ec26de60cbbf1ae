from collections.abc import Callable

import pytest
import torch
from torch import nn

from acnet_pl.backbones import AlexNet
from acnet_pl.nn import ACBConv, ACBlock, PlainConv


def test_layer_sizes_are_the_published_ones(parameters: Callable[[nn.Module], int]) -> None:
    convs = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 384, 3), (384, 256, 3)]
    linears = [(5 * 5 * 256, 4096), (4096, 4096), (4096, 1000)]
    with torch.device("meta"):
        net = AlexNet(PlainConv(), 1000)
    expected = sum(i * o * k * k + 2 * o for i, o, k in convs) + sum(i * o + o for i, o in linears)
    assert parameters(net) == expected
    assert expected / 1e6 == pytest.approx(50.3, abs=0.05)


def test_feature_maps_of_224_pixels_are_the_published_ones() -> None:
    """TensorFlow-slim's: 54, pooled 26; 26, pooled 12; 12, 12, 12, pooled 5."""
    sizes = []
    with torch.device("meta"):
        x = torch.empty(1, 3, 224, 224)
        for name, layer in AlexNet(PlainConv(), 10).features.named_children():
            x = layer(x)
            if not name.startswith("relu"):
                sizes.append((name, tuple(x.shape[1:])))
    assert sizes == [
        ("conv1", (64, 54, 54)),
        ("pool1", (64, 26, 26)),
        ("conv2", (192, 26, 26)),
        ("pool2", (192, 12, 12)),
        ("conv3", (384, 12, 12)),
        ("conv4", (384, 12, 12)),
        ("conv5", (256, 12, 12)),
        ("pool5", (256, 5, 5)),
    ]


def test_all_five_convolutions_are_replaced(kinds: Callable[[nn.Module], tuple[list[str], list[str]]]) -> None:
    with torch.device("meta"):
        net = AlexNet(ACBConv(asymmetric_size=3), 10)
    assert kinds(net) == ([f"features.conv{i}" for i in range(1, 6)], [])
    blocks = [module for module in net.modules() if isinstance(module, ACBlock)]
    assert [block.kernel_size[0] for block in blocks] == [11, 5, 3, 3, 3]
    assert all(block.horizontal is not None and block.horizontal.kernel_size == (1, 3) for block in blocks)
    assert all(block.vertical is not None and block.vertical.kernel_size == (3, 1) for block in blocks)


def test_dropout_is_of_the_last_two_layers_and_only_in_training() -> None:
    torch.manual_seed(0)
    net = AlexNet(PlainConv(), 10, dropout=0.25)
    fractions: list[float] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: fractions.append((args[0] == 0).float().mean().item()))
        for layer in (net.hidden2, net.classifier)
    ]
    images = torch.randn(8, 3, 67, 67)
    with torch.no_grad():
        net(images)
        net.eval()(images)
    assert len(hooks) == 2
    trained, evaluated = fractions[:2], fractions[2:]
    for dropped, kept in zip(trained, evaluated, strict=True):
        assert dropped > kept + 0.05
    assert trained[0] == pytest.approx(1 - 0.75 * (1 - 0.5), abs=0.05)  # ReLU leaves half


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_is_a_probability(dropout: float) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="`dropout`"):
        AlexNet(PlainConv(), 10, dropout=dropout)
