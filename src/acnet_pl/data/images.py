"""InMemoryImages: a data set as two tensors, read one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from acnet_pl.data.random_words import random_words

__all__ = ["Batch", "InMemoryImages", "stratified_order"]

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class InMemoryImages(Dataset[Batch]):
    """Images and labels in memory; a batch ``(images, labels, indices)`` is one indexing operation.

    Attributes:
        images: uint8 ``(N, H, W, C)``.
        labels: int64 ``(N,)``.

    Examples:
        >>> data = InMemoryImages(torch.zeros(10, 8, 8, 3, dtype=torch.uint8), torch.arange(10))
        >>> images, labels, indices = data.__getitems__([7, 2])
        >>> images.shape, labels, indices
        (torch.Size([2, 8, 8, 3]), tensor([7, 2]), tensor([7, 2]))
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"`images` must be uint8 of shape (N, H, W, C), got {self.images.dtype} of {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"`labels` must be int64 of shape ({len(self.images)},), one for each image, got {self.labels.dtype} "
                f"of {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        """Return one image ``(H, W, C)``, its label and its index."""
        return self.images[index], self.labels[index], torch.tensor(index)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these images; PyTorch's DataLoader calls this method for whole batches."""
        picked = torch.tensor(indices)
        return self.images.index_select(0, picked), self.labels.index_select(0, picked), picked

    def subset(self, indices: Tensor) -> InMemoryImages:
        """Return a copy of the images at these positions, renumbered from 0."""
        return InMemoryImages(self.images[indices], self.labels[indices])


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Order a data set at random so that every contiguous piece of the order is stratified by class.

    The k-th of the n samples of a class is placed at the fraction ``(k + 1/2) / n`` of the way.

    Args:
        labels: int64 ``(N,)``.
        seed: The order is a function of ``labels`` and ``seed``, the same on every machine.

    Returns:
        int64 ``(N,)``, a permutation of the positions.

    Examples:
        >>> labels = torch.tensor([0] * 40 + [1] * 20)
        >>> labels[stratified_order(labels, seed=0)[:15]].bincount()
        tensor([10,  5])
    """
    shuffled = random_words(seed, 0, torch.arange(len(labels))).argsort(stable=True)
    fractions = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        positions = (labels[shuffled] == label).nonzero().flatten()
        fractions[positions] = (torch.arange(len(positions), dtype=torch.float64) + 0.5) / len(positions)
    return shuffled[fractions.argsort(stable=True)]
