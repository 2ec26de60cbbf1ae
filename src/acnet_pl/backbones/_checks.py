"""Checks of the backbones: their options when built, the size of their images when called."""

from __future__ import annotations

import torch.fx
from torch import Tensor, nn

__all__ = ["ImageSize", "blocks_per_stage", "check_at_least"]


_DEEPEST = 10_000  # the deepest network of the literature has 1,202 layers


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError if an option is below its least value."""
    if value < least:
        raise ValueError(f"`{name}` (={value}) must be at least {least}")


def blocks_per_stage(depth: int, per_block: int, outside: int) -> int:
    """Return the blocks in each of a network's three equal stages, from its depth as articles count it.

    Args:
        depth: Layers with weights on the longest path, shortcuts and batch norms not counted.
        per_block: Layers of all three stages together that one more block per stage adds.
        outside: Layers outside the blocks.

    Raises:
        ValueError: There is no network of this depth; the message says which depths are nearest, or the greatest.

    Examples:
        >>> blocks_per_stage(56, per_block=6, outside=2)
        9
    """
    if depth > _DEEPEST:
        raise ValueError(f"`depth` (={depth}) must be at most {_DEEPEST:,}")
    n, rest = divmod(depth - outside, per_block)
    if rest or n < 1:
        nearest = [per_block * max(n, 1) + outside] + [per_block * (n + 1) + outside] * (n >= 1)
        raise ValueError(
            f"`depth` (={depth}) must be {per_block}n+{outside} with n of at least 1; nearest: "
            + " and ".join(map(str, nearest))
        )
    return n


class ImageSize(nn.Module):
    """Pass on images ``(N, C, H, W)`` of a size that the network takes; raise a readable error for others.

    Args:
        network: Name for the message.
        smallest: Least height and width, in pixels.
        largest: Greatest height and width; None is no limit.
        reason: Why, for the message.
    """

    def __init__(self, network: str, smallest: int, *, largest: int | None = None, reason: str) -> None:
        super().__init__()
        self.network = network
        self.smallest = smallest
        self.largest = largest
        self.reason = reason

    def forward(self, images: Tensor) -> Tensor:
        """Return the images unchanged.

        Raises:
            ValueError: They are too small or too large.
        """
        return _checked(images, self.network, self.smallest, self.largest, self.reason)


@torch.fx.wrap  # a symbolic trace knows no sizes: it keeps the call as it is
def _checked(images: Tensor, network: str, smallest: int, largest: int | None, reason: str) -> Tensor:
    height, width = images.shape[-2:]
    if min(height, width) >= smallest and (largest is None or max(height, width) <= largest):
        return images
    takes = f"{smallest}×{smallest} images" if largest == smallest else f"images of at least {smallest}×{smallest}"
    raise ValueError(
        f"{network} takes {takes}, got {height}×{width}: {reason}; resize or pad the images, or choose a backbone for "
        "this size (ResNetCifar and WideResNet take any)"
    )
