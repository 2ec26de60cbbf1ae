"""Check the image size of a command, and draw random images of it if they fit into memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from acnet_pl.config.errors import UsageError
from acnet_pl.image_preparation import LARGEST_IMAGE

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_image_size", "random_images"]


def check_image_size(image_size: int | None) -> None:
    """Raise a UsageError for an ``--image_size`` that no image has; None is not given."""
    if image_size is not None and not 1 <= image_size <= LARGEST_IMAGE:
        raise UsageError(f"`image_size` (={image_size}) must be from 1 to {LARGEST_IMAGE} pixels")


def random_images(count: int, size: int, seed: int) -> Tensor:
    """Return random images ``(count, 3, size, size)``.

    Args:
        count: Number of images.
        size: Height and width.
        seed: Seed of their values.

    Raises:
        ValueError: They alone take more than the memory of this machine.
    """
    import torch

    taken, there = 4 * count * 3 * size * size, _memory()
    if taken > there:
        raise ValueError(
            f"{count} images of {size} x {size} pixels take {taken / 1e9:,.1f} GB, and this machine has "
            f"{there / 1e9:,.1f} GB of memory; give a smaller --image_size or --batch_size"
        )
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _memory() -> int:
    """Return the memory of this machine in bytes; where the system does not tell it, what 64 bits address."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**48
