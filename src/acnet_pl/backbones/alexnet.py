"""AlexNet for ImageNet, TensorFlow-slim's with batch norm (Sect. 4.2, Tables 3 and 4)."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from acnet_pl.backbones._checks import ImageSize
from acnet_pl.backbones._linear import classifier, hidden
from acnet_pl.nn import ConvBuilder

__all__ = ["AlexNet"]


class AlexNet(nn.Module):
    """AlexNet: five convolutions with batch norm and three fully connected layers, no LRN, no groups (Sect. 4.2).

    Shapes: ``(N, 3, H, W)``, H and W at least 67, to logits ``(N, num_classes)``. Images of 224×224 reach the first
    fully connected layer as 5×5 pixels; what is left of others is averaged to that size.
    The article's ACNet has 1×3 and 3×1 kernels also on the 11×11 and the 5×5: a builder with ``asymmetric_size=3``.

    Args:
        conv: Builds the convolutions, all five.
        num_classes: Number of logits.
        dropout: Probability of dropping an input of the last two fully connected layers.

    Raises:
        ValueError: An option is out of its range, or, in forward, images are smaller than 67×67.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import PlainConv
        >>> with torch.device("meta"):
        ...     AlexNet(PlainConv(), num_classes=1000)(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 1000])
    """

    def __init__(self, conv: ConvBuilder, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` (={dropout}) must be at least 0 and less than 1")
        self.image_size = ImageSize("AlexNet", 67, reason="its stem and three poolings leave nothing of smaller ones")
        self.features = nn.Sequential(
            OrderedDict(
                conv1=conv(3, 64, 11, stride=4),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(3, stride=2),
                conv2=conv(64, 192, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(3, stride=2),
                conv3=conv(192, 384, 3, padding=1),
                relu3=nn.ReLU(),
                conv4=conv(384, 384, 3, padding=1),
                relu4=nn.ReLU(),
                conv5=conv(384, 256, 3, padding=1),
                relu5=nn.ReLU(),
                pool5=nn.MaxPool2d(3, stride=2),
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(5)
        self.hidden1 = hidden(256 * 5 * 5, 4096, conv.draw)
        self.hidden2 = hidden(4096, 4096, conv.draw)
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier(4096, num_classes, conv.draw)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_classes)``."""
        x = self.pool(self.features(self.image_size(images))).flatten(1)
        x = self.dropout(F.relu(self.hidden1(x)))
        x = self.dropout(F.relu(self.hidden2(x)))
        logits: Tensor = self.classifier(x)
        return logits
