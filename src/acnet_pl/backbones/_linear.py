"""Fully connected layers, drawn as the conv builder draws; the convolutions draw their own kernels."""

from __future__ import annotations

from torch import nn

from acnet_pl.backbones._checks import check_at_least
from acnet_pl.nn import KernelDraw, draw_kernel

__all__ = ["classifier", "hidden"]


def hidden(in_features: int, out_features: int, draw: KernelDraw) -> nn.Linear:
    """Build a layer that a ReLU follows: PyTorch's own draw, or Kaiming-normal fan-out and zero bias."""
    layer = nn.Linear(in_features, out_features)
    if draw == "fan_out":
        draw_kernel(layer.weight, draw)
        nn.init.zeros_(layer.bias)
    return layer


def classifier(in_features: int, num_classes: int, draw: KernelDraw) -> nn.Linear:
    """Build the last layer: PyTorch's own draw, or with "fan_out" N(0, 0.01²) and zero bias.

    Raises:
        ValueError: `num_classes` is less than 1.
    """
    check_at_least("num_classes", num_classes, 1)
    layer = nn.Linear(in_features, num_classes)
    if draw == "fan_out":
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return layer
