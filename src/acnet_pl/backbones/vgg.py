"""VGG-16 for CIFAR (Simonyan and Zisserman 2015; Tables 1 and 2)."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import ImageSize
from acnet_pl.backbones._linear import classifier, hidden
from acnet_pl.nn import ConvBuilder

__all__ = ["VGG16"]

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16 as used on CIFAR: 13 3×3 convolutions with batch norm, two fully connected layers, no dropout.

    Shapes: ``(N, 3, H, W)``, H and W at least 32, to logits ``(N, num_classes)``. Images of 32×32 come out of the five
    poolings as one pixel; what is left of larger ones is averaged.

    Args:
        conv: Builds the convolutions.
        num_classes: Number of logits.

    Raises:
        ValueError: In forward, images are smaller than 32×32.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> VGG16(PlainConv(), num_classes=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int) -> None:
        super().__init__()
        self.image_size = ImageSize("VGG16", 32, reason="its five poolings leave nothing of smaller ones")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for stage, widths in enumerate(_STAGES, start=1):
            for position, width in enumerate(widths, start=1):
                layers[f"conv{stage}_{position}"] = conv(channels, width, 3, padding=1)
                layers[f"relu{stage}_{position}"] = nn.ReLU()
                channels = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = hidden(512, 512, conv.draw)
        self.classifier = classifier(512, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.features(self.image_size(images))
        x = F.relu(self.hidden(self.pool(x).flatten(1)))
        logits: Tensor = self.classifier(x)
        return logits
