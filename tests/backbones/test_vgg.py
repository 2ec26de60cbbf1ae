from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from acnet_pl.backbones import VGG16
from acnet_pl.nn import ACBConv, PlainConv


def test_parameters_are_the_published_number(parameters: Callable[[nn.Module], int]) -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convs = sum(9 * i * o + 2 * o for i, o in pairwise(widths))
    with torch.device("meta"):
        assert parameters(VGG16(PlainConv(), 10)) == convs + 512 * 512 + 512 + 512 * 10 + 10
        assert parameters(VGG16(PlainConv(), 10)) / 1e6 == pytest.approx(15.0, abs=0.05)


@pytest.mark.parametrize("size", [32, 64])
def test_features_are_torchvisions_vgg16_bn(size: int, randomised: Callable[[nn.Module, Tensor], nn.Module]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.device("meta"):
        features = torchvision.models.vgg16_bn(weights=None).features
    net = VGG16(PlainConv(), 10).double()
    randomised(net, images)
    reference = features.to_empty(device="cpu").double().eval()
    ours = [tensor for name, tensor in net.features.state_dict().items() if "num_batches" not in name]
    theirs = {name: tensor for name, tensor in reference.state_dict().items() if "num_batches" not in name}
    biases = [name for name in theirs if name.endswith("bias") and name.replace("bias", "running_var") not in theirs]
    values = iter(ours)
    with torch.no_grad():
        for name, tensor in theirs.items():
            tensor.copy_(torch.zeros(()) if name in biases else next(values))
        expected = reference(images)
        assert (net.features(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_all_13_convolutions_are_replaced(kinds: Callable[[nn.Module], tuple[list[str], list[str]]]) -> None:
    with torch.device("meta"):
        replaced, plain = kinds(VGG16(ACBConv(), 10))
    assert len(replaced) == 13
    assert plain == []
