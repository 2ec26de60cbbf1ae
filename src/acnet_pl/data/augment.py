"""Augment and normalise batches of uint8 ``(N, H, W, C)`` images on any device."""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from acnet_pl.data.random_words import random_words, uniform_integers

__all__ = ["augment", "augment_by", "normalize", "pad_crop_flip"]


def augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, pad: int, flip: bool) -> Tensor:
    """Pad, crop at random and flip left-right at random, each image by its own random numbers (Sect. 4.1).

    The draw of a sample is a function of ``(seed, epoch, index)`` alone, so that a run gives the same images however
    its batches are split over processes, and after a resume in the middle of an epoch.

    Args:
        images: uint8 ``(N, H, W, C)``.
        indices: int64 ``(N,)``: the position of each image in its data set.
        seed: Seed of the run.
        epoch: Number of the epoch.
        pad: Pixels of black on each side; the crop has the size of the original. 0 is no cropping.
        flip: Flip half of the images.

    Returns:
        uint8 ``(N, H, W, C)``.
    """
    return augment_by(images, random_words(seed, epoch, indices.to(images.device)), pad=pad, flip=flip)


def augment_by(images: Tensor, words: Tensor, *, pad: int, flip: bool) -> Tensor:
    """Augment as `augment` does, by random words drawn beforehand.

    Args:
        images: uint8 ``(N, H, W, C)``.
        words: int64 ``(N,)`` on the images' device, as `random_words` gives them.
        pad: Pixels of black on each side.
        flip: Flip half of the images.

    Returns:
        uint8 ``(N, H, W, C)``.
    """
    tops, lefts = (uniform_integers(words, field, 2 * pad + 1) for field in (0, 1))
    flipped = (uniform_integers(words, 2, 2) == 1) & flip
    return pad_crop_flip(images, pad, tops, lefts, flipped)


def pad_crop_flip(images: Tensor, pad: int, tops: Tensor, lefts: Tensor, flipped: Tensor) -> Tensor:
    """Pad each image with zeros, cut a window of the original size at the image's offset, and flip chosen images.

    Args:
        images: ``(N, H, W, C)``, of any dtype.
        pad: Pixels on each side.
        tops: int64 ``(N,)``, first row of each window in the padded image: 0 to ``2 * pad``.
        lefts: int64 ``(N,)``, first column of each window.
        flipped: bool ``(N,)``: mirror the window left-right.

    Returns:
        ``(N, H, W, C)``.

    Examples:
        >>> image = torch.arange(4).view(1, 2, 2, 1)
        >>> pad_crop_flip(image, 1, torch.tensor([1]), torch.tensor([2]), torch.tensor([False])).view(2, 2)
        tensor([[1, 0],
                [3, 0]])
    """
    n, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad)).contiguous()
    padded_height, padded_width = height + 2 * pad, width + 2 * pad
    # Every run of `width` pixels in memory, overlapping, as a row to select: whole rows are copied, not single pixels.
    runs = padded.as_strided((n * padded_height * padded_width - width + 1, width * channels), (channels, 1))
    numbers = torch.arange(n, device=images.device)
    rows = (numbers * padded_height + tops)[:, None] + torch.arange(height, device=images.device)
    windows = runs.index_select(0, (rows * padded_width + lefts[:, None]).flatten()).view(images.shape)
    either = torch.cat([windows, windows.flip(2)])
    return either.index_select(0, numbers + n * flipped)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn stored images into what a network takes: ``(images / 255 - mean) / std``.

    Args:
        images: uint8 ``(N, H, W, C)``.
        mean: Mean of each channel, on the 0..1 scale.
        std: Standard deviation of each channel, on the 0..1 scale.

    Returns:
        float32 ``(N, C, H, W)`` in channels-last memory.

    Examples:
        >>> batch = normalize(
        ...     torch.full((2, 4, 4, 3), 255, dtype=torch.uint8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1)
        ... )
        >>> batch.shape, batch[0, :, 0, 0]
        (torch.Size([2, 3, 4, 4]), tensor([2.0000, 1.0000, 0.5000]))
    """
    n, height, width, channels = images.shape
    factor, shift = _row_of(tuple(mean), tuple(std), width, images.device)
    rows = images.reshape(n, height, width * channels).to(torch.float32)
    return rows.mul_(factor).sub_(shift).view(n, height, width, channels).permute(0, 3, 1, 2)


@cache
def _row_of(mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a factor and a shift for each value of a row; on a CPU, four times as fast as shape (C, 1, 1).

    The tensors are cached, because a copy from the host would make a GPU wait in every batch, and cannot be part of a
    CUDA graph. The cache never drops them, because a graph reads them at a fixed address.
    """
    with torch.inference_mode(False):
        std64, mean64 = (torch.tensor(x, dtype=torch.float64) for x in (std, mean))
        factor, shift = (x.repeat(width).to(device, torch.float32) for x in (1 / (255 * std64), mean64 / std64))
    return factor, shift
