"""Densely connected networks for ImageNet (Huang et al. 2017; Table 3)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import ImageSize
from acnet_pl.backbones._linear import classifier
from acnet_pl.nn import ConvBuilder, PlainConv

__all__ = ["DenseNet"]

Depth = Literal[121, 161, 169, 201]
_GROWTH_AND_LAYERS: dict[int, tuple[int, tuple[int, int, int, int]]] = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
}


class DenseNet(nn.Module):
    """DenseNet for ImageNet, with bottlenecks and compression. ``DenseNetCifar`` is the family for small images.

    Shapes: ``(N, 3, H, W)``, H and W at least 29, to logits ``(N, num_classes)``. The same networks as torchvision's.
    The 7×7 stem is plain, as the article replaces 3×3 layers.

    Args:
        conv: Builds the convolutions but the stem.
        num_classes: Number of logits.
        depth: 121, 161, 169 or 201.

    Raises:
        ValueError: An option is out of its range, or, in forward, images are smaller than 29×29.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> DenseNet(PlainConv(), num_classes=1000)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, depth: Depth = 121) -> None:
        super().__init__()
        if depth not in _GROWTH_AND_LAYERS:
            raise ValueError(
                f"`depth` (={depth}) must be one of {', '.join(map(str, _GROWTH_AND_LAYERS))}; the DenseNets of 40 and "
                "100 layers are DenseNetCifar"
            )
        growth, layers = _GROWTH_AND_LAYERS[depth]
        self.image_size = ImageSize("DenseNet", 29, reason="its poolings leave nothing of smaller ones")
        channels = 2 * growth
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        self.stem = PlainConv()(3, channels, 7, stride=2, padding=3)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, count in enumerate(layers, start=1):
            stages[f"block{stage}"] = nn.Sequential(
                *(_DenseLayer(conv, channels + i * growth, growth) for i in range(count))
            )
            channels += count * growth
            if stage < len(layers):
                stages[f"transition{stage}"] = _transition(conv, channels, channels // 2)
                channels //= 2
        self.stages = nn.Sequential(stages)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier(channels, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.stem_pool(F.relu(self.stem(self.image_size(images))))
        x = F.relu(self.norm(self.stages(x)))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class _DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3, its output appended to its input's channels."""

    def __init__(self, conv: ConvBuilder, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.bottleneck = conv(in_channels, 4 * growth, 1)
        self.conv = conv(4 * growth, growth, 3, padding=1, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bottleneck(F.relu(self.norm(x))))
        return torch.cat([x, self.conv(out)], 1)


def _transition(conv: ConvBuilder, in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=conv(in_channels, out_channels, 1, norm=False),
            pool=nn.AvgPool2d(2),
        )
    )
