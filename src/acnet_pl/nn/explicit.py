"""explicit_branches: evaluate blocks as they are defined, without the shortcuts that give the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from acnet_pl.nn.fusible import FusibleConv

__all__ = ["explicit_branches"]


@contextmanager
def explicit_branches(model: nn.Module) -> Iterator[None]:
    """Within this context every block of the model evaluates its branches one by one, also in eval mode.

    What a check of the fusing must compare with: otherwise it compares the fused kernel with itself.

    Example:
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
