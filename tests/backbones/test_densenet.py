import re
from collections.abc import Callable

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torch import Tensor, nn

from acnet_pl.backbones import DenseNet
from acnet_pl.nn import ACBConv, PlainConv

RENAMED = [
    (r"^features\.conv0\.", "stem.conv."),
    (r"^features\.norm0\.", "stem.norm."),
    (r"^features\.norm5\.", "norm."),
    (r"^features\.denseblock(\d)\.", r"stages.block\1."),
    (r"\.denselayer(\d+)\.", lambda match: f".{int(match[1]) - 1}."),
    (r"\.norm1\.", ".norm."),
    (r"\.conv1\.", ".bottleneck.conv."),
    (r"\.norm2\.", ".bottleneck.norm."),
    (r"\.conv2\.", ".conv.conv."),
    (r"^features\.transition(\d)\.norm\.", r"stages.transition\1.norm."),
    (r"^features\.transition(\d)\.conv\.", r"stages.transition\1.conv.conv."),
]


def from_torchvision(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
    return name


@pytest.mark.parametrize("depth", [121, 161, 169, 201])
def test_parameters_are_torchvisions(depth: int, parameters: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        reference = torchvision.models.get_model(f"densenet{depth}", weights=None)
        assert parameters(DenseNet(PlainConv(), 1000, depth=depth)) == parameters(reference)  # type: ignore[arg-type]


def test_torchvisions_weights_give_torchvisions_outputs(
    randomised: Callable[[nn.Module, Tensor], nn.Module],
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 75, 64, dtype=torch.float64)
    reference = torchvision.models.densenet121(weights=None, num_classes=20).double()
    randomised(reference, images)
    net = DenseNet(PlainConv(), 20).double().eval()
    net.load_state_dict({from_torchvision(name): tensor for name, tensor in reference.state_dict().items()})
    with torch.no_grad():
        expected = reference(images)
        assert (net(images) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_every_3x3_convolution_is_replaced_and_nothing_else(
    kinds: Callable[[nn.Module], tuple[list[str], list[str]]],
) -> None:
    with torch.device("meta"):
        replaced, plain = kinds(DenseNet(ACBConv(), 10))
    layers = [f"stages.block{block}.{i}" for block, n in enumerate((6, 12, 24, 16), start=1) for i in range(n)]
    assert replaced == [f"{layer}.conv" for layer in layers]
    transitions = [f"stages.transition{i}.conv" for i in (1, 2, 3)]
    assert sorted(plain) == sorted(["stem", *transitions, *(f"{layer}.bottleneck" for layer in layers)])


def test_a_cifar_depth_is_sent_to_the_cifar_family() -> None:
    with pytest.raises(ValueError, match=r"`depth` \(=40\) must be one of 121, 161, 169, 201; .* DenseNetCifar"):
        DenseNet(PlainConv(), 10, depth=40)  # type: ignore[arg-type]
