"""Wide residual networks for CIFAR (Zagoruyko and Komodakis 2016; Tables 1 and 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import blocks_per_stage, check_at_least
from acnet_pl.backbones._linear import classifier
from acnet_pl.nn import ConvBuilder

__all__ = ["WideResNet"]


class WideResNet(nn.Module):
    """Wide ResNet WRN-depth-width for CIFAR: pre-activation blocks of two 3×3 convolutions, no dropout.

    Shapes: ``(N, 3, H, W)`` of any size to logits ``(N, num_classes)``. The three stages have 16, 32 and 64 times
    `width` channels.

    Args:
        conv: Builds the convolutions.
        num_classes: Number of logits.
        depth: 6n+4: 10, 16, 22, 28, 40, ...
        width: Widening factor.

    Raises:
        ValueError: An option is out of its range.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> WideResNet(PlainConv(), num_classes=10, depth=10, width=2)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, depth: int = 16, width: int = 8) -> None:
        super().__init__()
        n = blocks_per_stage(depth, per_block=6, outside=4)
        check_at_least("width", width, 1)
        self.stem = conv(3, 16, 3, padding=1, norm=False)
        self.stages = nn.Sequential()
        channels = 16
        for out_channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            blocks = [_PreActivationBlock(conv, channels, out_channels, stride)]
            blocks += [_PreActivationBlock(conv, out_channels, out_channels, 1) for _ in range(n - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = out_channels
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(channels, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stages(self.stem(images))
        x = F.relu(self.norm(x))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class _PreActivationBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv and a shortcut; where the shape changes, a 1×1 projection of the activated input."""

    def __init__(self, conv: ConvBuilder, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, norm=False)
        self.projection: nn.Module | None = None
        if in_channels != out_channels or stride != 1:
            self.projection = conv(in_channels, out_channels, 1, stride=stride, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm(x))
        shortcut = x if self.projection is None else self.projection(active)
        out: Tensor = self.conv2(F.relu(self.conv1(active))) + shortcut
        return out
