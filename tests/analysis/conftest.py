from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acnet_pl.nn import ACBConv, ConvBuilder

Build = Callable[..., nn.Module]
Randomise = Callable[[nn.Module], nn.Module]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomised() -> Randomise:
    """Give every batch norm random statistics and affine values, and leave eval mode on."""

    @torch.no_grad()
    def randomise(net: nn.Module) -> nn.Module:
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
        return net.eval()

    return randomise


@pytest.fixture
def small_net(randomised: Randomise) -> Build:
    """A classifier of any image size: 5×5 and two 3×3 layers, a 1×1 one, pooling and a linear layer."""

    def build(conv: ConvBuilder | None = None, channels: int = 3, classes: int = 7) -> nn.Module:
        conv = ACBConv() if conv is None else conv
        net = nn.Sequential(
            conv(channels, 4, 5, padding=2),
            nn.ReLU(inplace=True),
            conv(4, 6, 3, padding=1, stride=2),
            nn.ReLU(inplace=True),
            conv(6, 6, 1),
            conv(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, classes),
        )
        return randomised(net)

    return build


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches of different sizes, so that a mean of means is not the mean."""
    return [(torch.randn(n, 3, 10, 10), torch.randint(7, (n,))) for n in (8, 5, 1)]
