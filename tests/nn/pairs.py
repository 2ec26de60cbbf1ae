"""A convolution and a batch norm for tests to put something between, and calls of such a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Randomise = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Pair(nn.Module):
    """A convolution, a batch norm, and what a subclass adds."""

    conv: nn.Module
    norm: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.more()

    def more(self) -> None:
        """Add modules and attributes."""

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


def plain(network: Any) -> Any:
    return network(X)


def given(**arguments: Any) -> Callable[[Any], Any]:
    return lambda network: network(X, **arguments)


def where(**attributes: Any) -> Callable[[Any], Any]:
    def call(network: Any) -> Any:
        before = {name: getattr(network, name) for name in attributes}
        try:
            for name, value in attributes.items():
                setattr(network, name, value)
            return network(X)
        finally:
            for name, value in before.items():
                setattr(network, name, value)

    return call
