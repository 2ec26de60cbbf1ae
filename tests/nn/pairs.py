"""A convolution and a batch norm for tests to put something between, and calls of such a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn import convert_to_acnet, fuse_model

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


def hold_at_another_call(model: nn.Module, other: Callable[[Any], Any], example: Tensor | None) -> None:
    """Fuse and convert a network, and compare with it at the plain call and at another one."""
    networks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        networks.append(fuse_model(model, example))
        try:
            networks.append(convert_to_acnet(model, example, init="preserve"))
        except ValueError as error:
            if example is not None or "give an `example_input`" not in str(error):
                raise
    for network in networks:
        for call in (plain, other):
            with torch.no_grad():
                state = {name: value.clone() for name, value in model.state_dict().items()}
                expected = call(model)
                model.load_state_dict(state)  # a norm in train mode moves its statistics
            torch.testing.assert_close(call(network), expected, rtol=1e-9, atol=1e-10)
