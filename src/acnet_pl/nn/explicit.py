"""explicit_branches: evaluate blocks branch by branch, without shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from acnet_pl.nn.fusible import FusibleConv

__all__ = ["explicit_branches"]


@contextmanager
def explicit_branches(model: nn.Module) -> Iterator[None]:
    """Make every block of the model evaluate its branches one by one within this context, even in eval mode.

    Use it to check fusing. Without it, a block in eval mode computes with its fused kernel, and the check would compare
    that kernel with itself.

    Examples:
        >>> import torch
        >>> from acnet_pl.nn import ACBlock
        >>> block = ACBlock(4, 4, 3).eval()
        >>> with explicit_branches(block):
        ...     trained = block(torch.ones(1, 4, 3, 3))
        >>> torch.allclose(trained, block(torch.ones(1, 4, 3, 3)), atol=1e-5)
        True
    """
    before = {block: block.explicit for block in model.modules() if isinstance(block, FusibleConv)}
    try:
        for block in before:
            block.explicit = True
        yield
    finally:
        for block, value in before.items():
            block.explicit = value
