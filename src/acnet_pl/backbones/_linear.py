"""Fully connected layers and how they are initialised; the convolutions initialise themselves."""

from __future__ import annotations

from torch import nn

from acnet_pl.backbones._checks import check_at_least

__all__ = ["classifier", "hidden"]


def hidden(in_features: int, out_features: int) -> nn.Linear:
    """A layer that a ReLU follows: Kaiming-normal weights, fan-out as the convolutions', and zero bias."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def classifier(in_features: int, num_classes: int) -> nn.Linear:
    """The last layer: weights from N(0, 0.01²) and zero bias, so that training starts near uniform predictions.

    Raises:
        ValueError: `num_classes` is less than 1.
    """
    check_at_least("num_classes", num_classes, 1)
    layer = nn.Linear(in_features, num_classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
