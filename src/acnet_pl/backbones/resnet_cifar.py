"""Residual networks for CIFAR (He et al. 2016, Sect. 4.2; Tables 1 and 2)."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import blocks_per_stage
from acnet_pl.backbones._linear import classifier
from acnet_pl.nn import ConvBuilder

__all__ = ["ResNetCifar"]

Shortcut = Literal["projection", "identity"]


class ResNetCifar(nn.Module):
    """ResNet for CIFAR: a 3×3 stem and three stages of 16, 32 and 64 channels. ``ResNet`` is the ImageNet family.

    Shapes: ``(N, 3, H, W)`` of any size to logits ``(N, num_classes)``.

    Args:
        conv: Builds the convolutions.
        num_classes: Number of logits.
        depth: 6n+2: 20, 32, 44, 56, 110, ...
        shortcut: What joins stages of different width. "projection": a 1×1 convolution of stride 2 with batch norm, as
            the ACNet authors have it; "identity": subsampling and zero channels, without parameters (option A of He
            et al.).

    Raises:
        ValueError: An option is out of its range.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> ResNetCifar(PlainConv(), num_classes=10, depth=8)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, depth: int = 56, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        if shortcut not in get_args(Shortcut):
            raise ValueError(f"`shortcut` (={shortcut!r}) must be one of {', '.join(map(repr, get_args(Shortcut)))}")
        n = blocks_per_stage(depth, per_block=6, outside=2)
        self.stem = conv(3, 16, 3, padding=1)
        self.stages = nn.Sequential()
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            blocks = [_BasicBlock(conv, channels, width, stride, shortcut)]
            blocks += [_BasicBlock(conv, width, width, 1, shortcut) for _ in range(n - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(channels, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stages(F.relu(self.stem(images)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, conv: ConvBuilder, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.shortcut: nn.Module
        if in_channels == out_channels and stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = conv(in_channels, out_channels, 1, stride=stride)
        else:
            self.shortcut = _SubsampleAndPad(stride, out_channels - in_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + self.shortcut(x))


class _SubsampleAndPad(nn.Module):
    """Keep every `stride`-th pixel, and append `channels` channels of zeros."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))
