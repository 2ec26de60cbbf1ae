"""DeviceImages: a data set on the training device, shared by all networks that train on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acnet_pl.data.augment import normalize
from acnet_pl.data.images import InMemoryImages

__all__ = ["DeviceImages"]


@dataclass(frozen=True, eq=False)
class DeviceImages:
    """Stored images and labels on one device, with the normalisation of the images.

    Attributes:
        images: uint8 ``(N, H, W, C)``.
        labels: int64 ``(N,)``.
        mean: Mean of each channel, on the 0..1 scale.
        std: Standard deviation of each channel, likewise.
    """

    images: Tensor
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(
        cls, dataset: InMemoryImages, mean: Sequence[float], std: Sequence[float], device: torch.device
    ) -> DeviceImages:
        """Copy a data set to a device and return it."""
        return cls(dataset.images.to(device), dataset.labels.to(device), tuple(mean), tuple(std))

    def __len__(self) -> int:
        return len(self.labels)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn stored images, uint8 ``(N, H, W, C)``, into network input, float32 ``(N, C, H, W)``."""
        return normalize(images, self.mean, self.std)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images in order, normalised, with their labels.

        Args:
            size: Images in a batch; the last may have fewer.
        """
        for start in range(0, len(self), size):
            yield self.normalize(self.images[start : start + size]), self.labels[start : start + size]
