from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acnet_pl.nn import ACBlock, FusibleConv

Randomise = Callable[[nn.Module, Tensor], nn.Module]


@pytest.fixture
def randomised() -> Randomise:
    """Give every batch norm random affine values, and statistics near those of these images but not the same."""

    @torch.no_grad()
    def randomise(net: nn.Module, images: Tensor) -> nn.Module:
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the first batch sets the statistics
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        net.train()(images)
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += norm.running_var.sqrt() * torch.empty_like(norm.running_mean).uniform_(-0.5, 0.5)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)
            norm.running_var += 0.1 * norm.running_var.mean()
        return net.eval()

    return randomise


@pytest.fixture
def kinds() -> Callable[[nn.Module], tuple[list[str], list[str]]]:
    """The names of a net's ACBlocks, and of its other fusible convolutions."""

    def names(net: nn.Module) -> tuple[list[str], list[str]]:
        fusible = {name: module for name, module in net.named_modules() if isinstance(module, FusibleConv)}
        blocks = [name for name, module in fusible.items() if isinstance(module, ACBlock)]
        return blocks, [name for name in fusible if name not in blocks]

    return names


@pytest.fixture
def parameters() -> Callable[[nn.Module], int]:
    """The number of a net's parameters."""
    return lambda net: sum(parameter.numel() for parameter in net.parameters())
