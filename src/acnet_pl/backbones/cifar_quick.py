"""Cifar-quick, the small plain network of Tables 1 and 2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import ImageSize
from acnet_pl.backbones._linear import classifier, hidden
from acnet_pl.nn import ConvBuilder

__all__ = ["CifarQuick"]


class CifarQuick(nn.Module):
    """Cifar-quick: three 5×5 convolutions with batch norm and two fully connected layers (Tables 1 and 2).

    Shapes: ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``. Feature maps are 32, 15, 7 and 3 pixels wide.
    The article's ACNet has 1×3 and 3×1 kernels on the 5×5 ones: a builder with ``asymmetric_size=3``.

    Args:
        conv: Builds the convolutions.
        num_classes: Number of logits.

    Raises:
        ValueError: In forward, images are not 32×32.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> CifarQuick(PlainConv(), num_classes=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int) -> None:
        super().__init__()
        self.image_size = ImageSize(
            "CifarQuick", 32, largest=32, reason="its first fully connected layer has 576 = 64·3·3 inputs"
        )
        self.conv1 = conv(3, 32, 5, padding=2)
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = conv(32, 32, 5, padding=2)
        self.pool2 = nn.AvgPool2d(3, stride=2)
        self.conv3 = conv(32, 64, 5, padding=2)
        self.pool3 = nn.AvgPool2d(3, stride=2)
        self.hidden = hidden(64 * 3 * 3, 64, conv.draw)
        self.classifier = classifier(64, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, 32, 32)`` to logits ``(N, num_classes)``."""
        x = self.image_size(images)
        x = self.pool1(F.relu(self.conv1(x)))
        x = self.pool2(F.relu(self.conv2(x)))
        x = self.pool3(F.relu(self.conv3(x)))
        x = F.relu(self.hidden(x.flatten(1)))
        logits: Tensor = self.classifier(x)
        return logits
