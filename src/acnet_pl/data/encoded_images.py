"""Encoded images in files or shards, decoded and cut a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from acnet_pl.data.crops import center_crop, random_resized_box, resized_crop
from acnet_pl.data.decoding import UnreadableImageError, decode_all
from acnet_pl.data.errors import DataError
from acnet_pl.data.images import Batch
from acnet_pl.data.random_words import random_words, uniform_stream
from acnet_pl.data.training_loader import raising

__all__ = ["Cut", "EncodedBatch", "EncodedImages", "ImageLoader", "Split", "Unreadable"]

_CPU = torch.device("cpu")


class Split(Protocol):
    """Encoded images by their number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int) -> tuple[Tensor, int]:
        """Return the content, uint8 ``(bytes,)``, and the label; no content if it cannot be read."""

    def describe(self, index: int) -> str:
        """Return the image's name for error messages."""


@dataclass
class EncodedBatch:
    """Batch of images to be decoded on the training device.

    Attributes:
        contents: uint8 ``(bytes of all,)``, one after another, always on the CPU. One tensor, because each that comes
            from another process holds a file open.
        sizes: Bytes of each.
        labels: int64 ``(N,)``.
        indices: int64 ``(N,)``.
        epoch: Epoch of the random boxes.
    """

    contents: Tensor
    sizes: list[int]
    labels: Tensor
    indices: Tensor
    epoch: int


@dataclass(frozen=True)
class Cut:
    """Rule that brings images to size: random boxes with a seed, else the centre.

    Attributes:
        size: Height and width of the result.
        resize: Shorter side before the centre is cut.
        min_scale: Smallest share of the area that a random box has.
        seed: Seed of the random boxes; None cuts the centre.
        upright: Turn images as their EXIF orientation says before they are cut.
    """

    size: int
    resize: int
    min_scale: float
    seed: int | None
    upright: bool = False

    def __call__(self, image: Tensor, word: int) -> Tensor:
        """Cut one image.

        Args:
            image: uint8 ``(3, H, W)``.
            word: Decides the random box; see `words`.

        Returns:
            uint8 ``(size, size, 3)``.
        """
        if self.seed is None:
            return center_crop(image, self.resize, self.size).permute(1, 2, 0)
        box = random_resized_box(image.shape[1], image.shape[2], self.min_scale, uniform_stream(word))
        return resized_crop(image, box, self.size).permute(1, 2, 0)

    def words(self, epoch: int, indices: Tensor) -> list[int]:
        """Draw the random word that decides each image's box, from ``(seed, epoch, index)`` alone."""
        drawn: list[int] = random_words(self.seed or 0, epoch, indices).tolist()
        return drawn


class Unreadable:
    """Unreadable images of a split, counted by all decoding processes in shared memory.

    Args:
        split: The split that has the images.
        limit: Largest number that is not an error.
    """

    def __init__(self, split: Split, limit: int) -> None:
        self._split = split
        self._limit = limit
        self._met: Tensor = torch.zeros(len(split) if limit else 0, dtype=torch.bool)
        self._met.share_memory_()  # type: ignore[no-untyped-call]

    def indices(self) -> list[int]:
        """Return the indices of the unreadable images found so far; [] if the limit is 0."""
        return self._met.nonzero().flatten().tolist() if self._limit else []

    def add(self, index: int, error: Exception) -> None:
        """Record an unreadable image.

        Raises:
            DataError: There are more than ``limit`` now.
        """
        if self._limit:
            self._met[index] = True
            if len(self.indices()) <= self._limit:
                return
        allowed = f"more than `skip_unreadable` (={self._limit}) are so" if self._limit else "mend or remove it"
        way_out = "" if self._limit else ", or set `skip_unreadable` to the number of such files to put up with"
        raise DataError(f"{self._split.describe(index)} cannot be decoded ({error}); {allowed}{way_out}")


class EncodedImages(Dataset[Batch]):
    """Split whose batches are ``(images uint8 (N, size, size, 3), labels, indices)``, or still encoded.

    It is asked for positions: ``epoch * len + index``. Instead of an unreadable training image the next readable one is
    taken, under its own label; an unreadable evaluation image is left out of its batch, which may leave none.

    Args:
        split: The images.
        cut: Rule that brings images to size.
        skip_unreadable: Number of unreadable images that is not an error.
        encoded: Leave the decoding to whoever takes the batch.
    """

    def __init__(self, split: Split, cut: Cut, skip_unreadable: int = 0, encoded: bool = False) -> None:
        self.split = split
        self.cut = cut
        self.unreadable = Unreadable(split, skip_unreadable)
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> Batch:
        """Return one image ``(size, size, 3)``, its label and its index."""
        batch = self.__getitems__([position])
        if isinstance(batch, DataError):
            raise batch
        images, labels, indices = self.decoded(batch, _CPU) if isinstance(batch, EncodedBatch) else batch
        return images[0], labels[0], indices[0]

    def __getitems__(self, positions: Sequence[int]) -> Batch | EncodedBatch | DataError:
        """Return the batch of these images; an error is returned, not raised, so that workers add no traceback."""
        try:
            return self._batch(positions)
        except DataError as error:
            return error

    def decoded(self, batch: EncodedBatch, device: torch.device) -> Batch:
        """Decode and cut a batch on a device.

        Raises:
            DataError: An image cannot be decoded and may not be skipped.
        """
        indices, given = batch.indices.tolist(), batch.labels.tolist()
        words = self.cut.words(batch.epoch, batch.indices)
        images, labels, kept = [], [], []
        for number, image in enumerate(decode_all(torch.split(batch.contents, batch.sizes), device, self.cut.upright)):
            label: int = given[number]
            if isinstance(image, UnreadableImageError):
                replaced = self._instead_of(indices[number], image)
                if replaced is None:
                    continue
                image, label = replaced[0].to(device), replaced[1]
            images.append(self.cut(image, words[number]))
            labels.append(label)
            kept.append(indices[number])
        if not images and self.cut.seed is not None:
            raise DataError(f"no image can be decoded, among them {self.split.describe(indices[0])}")
        size = self.cut.size
        none = torch.empty(0, size, size, 3, dtype=torch.uint8, device=device)
        return (
            default_collate(images) if images else none,
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(kept, dtype=torch.int64),
        )

    def _batch(self, positions: Sequence[int]) -> Batch | EncodedBatch:
        epochs, indices = zip(*(divmod(position, len(self)) for position in positions), strict=True)
        contents, labels = zip(*(self.split.read(index) for index in indices), strict=True)
        sizes = [len(content) for content in contents]
        batch = EncodedBatch(torch.cat(contents), sizes, torch.tensor(labels), torch.tensor(indices), epochs[0])
        return batch if self._encoded else self.decoded(batch, _CPU)

    def _instead_of(self, index: int, error: UnreadableImageError) -> tuple[Tensor, int] | None:
        self.unreadable.add(index, error)
        if self.cut.seed is None:
            return None
        for other in (n % len(self) for n in range(index + 1, index + len(self))):
            content, label = self.split.read(other)
            image = next(decode_all([content], _CPU, self.cut.upright))
            if isinstance(image, Tensor):
                return image, label
            self.unreadable.add(other, image)
        return None


class ImageLoader(DataLoader[Batch]):
    """DataLoader of `EncodedImages` that raises an error of a decoding process unchanged."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return raising(super().__iter__())
