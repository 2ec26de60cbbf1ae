"""Residual networks for ImageNet (He et al. 2016; Tables 3 and 4)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._linear import classifier
from acnet_pl.nn import ConvBuilder, PlainConv

__all__ = ["ResNet"]

Depth = Literal[18, 34, 50, 101, 152]
_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResNet(nn.Module):
    """ResNet for ImageNet. ``ResNetCifar`` is the family for small images.

    Shapes: ``(N, 3, H, W)`` of any size to logits ``(N, num_classes)``. The same networks as torchvision's: bottlenecks
    from depth 50, stride on their 3×3 convolution. The 7×7 stem is plain, as the article replaces "every 3×3 layer".

    Args:
        conv: Builds the convolutions but the stem.
        num_classes: Number of logits.
        depth: 18, 34, 50, 101 or 152.

    Raises:
        ValueError: An option is out of its range.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> ResNet(PlainConv(), num_classes=1000)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, depth: Depth = 18) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(
                f"`depth` (={depth}) must be one of {', '.join(map(str, _BLOCKS))}; the ResNets of 20, 32, 44, 56, 110 "
                "layers are ResNetCifar"
            )
        block = _BasicBlock if depth < 50 else _Bottleneck
        self.stem = PlainConv()(3, 64, 7, stride=2, padding=3)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.Sequential()
        channels = 64
        for stage, count in enumerate(_BLOCKS[depth]):
            blocks = nn.Sequential()
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(block(conv, channels, 64 * 2**stage, stride))
                channels = 64 * 2**stage * block.expansion
            self.stages.append(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(channels, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stem_pool(F.relu(self.stem(images)))
        logits: Tensor = self.classifier(self.pool(self.stages(x)).flatten(1))
        return logits


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions, each with batch norm, and a shortcut around them."""

    expansion = 1

    def __init__(self, conv: ConvBuilder, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride=stride, padding=1)
        self.conv2 = conv(width, width, 3, padding=1)
        self.shortcut = _shortcut(conv, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + self.shortcut(x))


class _Bottleneck(nn.Module):
    """A 1×1, a 3×3 and a widening 1×1 convolution, each with batch norm, and a shortcut around them."""

    expansion = 4

    def __init__(self, conv: ConvBuilder, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 1)
        self.conv2 = conv(width, width, 3, stride=stride, padding=1)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.shortcut = _shortcut(conv, in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(out) + self.shortcut(x))


def _shortcut(conv: ConvBuilder, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return conv(in_channels, out_channels, 1, stride=stride)
