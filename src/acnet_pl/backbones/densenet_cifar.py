"""Densely connected networks for CIFAR (Huang et al. 2017; Tables 1 and 2)."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import ImageSize, blocks_per_stage, check_at_least
from acnet_pl.backbones._linear import classifier
from acnet_pl.nn import ConvBuilder

__all__ = ["DenseNetCifar"]


class DenseNetCifar(nn.Module):
    """DenseNet for CIFAR without bottlenecks or compression. ``DenseNet`` is the ImageNet family.

    Shapes: ``(N, 3, H, W)``, H and W at least 4, to logits ``(N, num_classes)``. A stem of 16 channels and three dense
    blocks, each 3×3 layer adding `growth` channels.

    Args:
        conv: Builds the convolutions.
        num_classes: Number of logits.
        depth: 3n+4: 40, 100, ...
        growth: Channels that each layer adds, k.

    Raises:
        ValueError: An option is out of its range, or, in forward, images are smaller than 4×4.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> DenseNetCifar(PlainConv(), num_classes=10, depth=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, depth: int = 40, growth: int = 12) -> None:
        super().__init__()
        n = blocks_per_stage(depth, per_block=3, outside=4)
        check_at_least("growth", growth, 1)
        self.image_size = ImageSize("DenseNetCifar", 4, reason="its two poolings leave nothing of smaller ones")
        channels = 16
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        self.stem = conv(3, channels, 3, padding=1, norm=False)
        for stage in (1, 2, 3):
            stages[f"block{stage}"] = nn.Sequential(
                *(_DenseLayer(conv, channels + i * growth, growth) for i in range(n))
            )
            channels += n * growth
            if stage < 3:
                stages[f"transition{stage}"] = _transition(conv, channels)
        self.stages = nn.Sequential(stages)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(channels, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stages(self.stem(self.image_size(images)))
        x = F.relu(self.norm(x))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class _DenseLayer(nn.Module):
    """BN-ReLU-conv, its output appended to its input's channels."""

    def __init__(self, conv: ConvBuilder, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = conv(in_channels, growth, 3, padding=1, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def _transition(conv: ConvBuilder, channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            conv=conv(channels, channels, 1, norm=False),
            pool=nn.AvgPool2d(2),
        )
    )
