import re
from collections.abc import Callable

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from acnet_pl.backbones import ResNet
from acnet_pl.nn import ACBConv, PlainConv

RENAMED = [
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}."),
    (r"\.conv(\d)\.", r".conv\1.conv."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "classifier."),
]


def from_torchvision(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
    return name


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_parameters_are_torchvisions(depth: int, parameters: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        reference = torchvision.models.get_model(f"resnet{depth}", weights=None)
        assert parameters(ResNet(PlainConv(), 1000, depth=depth)) == parameters(reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvisions_weights_give_torchvisions_outputs(
    depth: int, randomised: Callable[[nn.Module, Tensor], nn.Module]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 75, 64, dtype=torch.float64)
    reference = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=20).double()
    randomised(reference, images)
    net = ResNet(PlainConv(), 20, depth=depth).double().eval()  # type: ignore[arg-type]
    net.load_state_dict({from_torchvision(name): tensor for name, tensor in reference.state_dict().items()})
    with torch.no_grad():
        expected = reference(images)
        assert (net(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("depth", "blocks"), [(18, 16), (34, 32), (50, 16)])
def test_every_3x3_convolution_is_replaced_and_nothing_else(
    depth: int, blocks: int, kinds: Callable[[nn.Module], tuple[list[str], list[str]]]
) -> None:
    with torch.device("meta"):
        replaced, plain = kinds(ResNet(ACBConv(), 10, depth=depth))  # type: ignore[arg-type]
    one_by_one = ("shortcut",) if depth < 50 else ("conv1", "conv3", "shortcut")
    assert len(replaced) == blocks
    assert {name.split(".")[-1] for name in replaced} == ({"conv1", "conv2"} if depth < 50 else {"conv2"})
    assert all(name == "stem" or name.endswith(one_by_one) for name in plain)


def test_a_cifar_depth_is_sent_to_the_cifar_family() -> None:
    with pytest.raises(ValueError, match=r"`depth` \(=56\) must be one of 18, 34, 50, 101, 152; .* ResNetCifar"):
        ResNet(PlainConv(), 10, depth=56)  # type: ignore[arg-type]
