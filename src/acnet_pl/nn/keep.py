"""keep_fused: fuse every block only once for many batches, while weights do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_not
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from acnet_pl.nn.fusible import Fused, FusibleConv

__all__ = ["keep_fused", "kept_or"]


class _Kept(NamedTuple):
    tensors: list[Tensor]
    versions: list[int]
    fused: Fused


_kept: WeakKeyDictionary[nn.Module, _Kept | None] = WeakKeyDictionary()  # not in the blocks, whose copies may train


@contextmanager
def keep_fused(model: nn.Module) -> Iterator[None]:
    """Make every block in eval mode keep its fused kernel from the first batch on, within this context.

    Without it a block fuses its kernel for each batch. That time is small for a large batch, but exceeds the
    convolution's own for a single image. A block whose weights or running statistics change, or which
    `torch.func.functional_call` gives others, fuses anew. Changes by way of ``.data`` go unseen, so make none within
    the context. Gradients of weights are still computed correctly: blocks keep no kernel while they are required.

    Args:
        model: Any module.

    Examples:
        >>> import torch
        >>> from acnet_pl import ACBlock
        >>> block = ACBlock(4, 4, 3).eval()
        >>> with torch.no_grad(), keep_fused(block):
        ...     outputs = [block(torch.randn(1, 4, 8, 8)) for _ in range(10)]
    """
    blocks = [module for module in model.modules() if isinstance(module, FusibleConv) and module not in _kept]
    _kept.update(dict.fromkeys(blocks))
    try:
        yield
    finally:
        for block in blocks:
            _kept.pop(block, None)


def kept_or(block: FusibleConv, fuse: Callable[[], Fused]) -> Fused:
    """Return the kernel that `keep_fused` keeps for the block, or ``fuse()`` outside it or if gradients are needed."""
    if (
        torch.compiler.is_compiling()
        or block not in _kept
        or torch._C._are_functorch_transforms_active()
        or (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in block.parameters()))
    ):
        return fuse()
    tensors = [*_tensors(block)]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    kept = _kept[block]
    if kept is None or versions != kept.versions or any(map(is_not, tensors, kept.tensors)):
        with torch.inference_mode(False), torch.no_grad():
            kept = _kept[block] = _Kept(tensors, versions, fuse())
    return kept.fused


def _tensors(block: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers; read directly, since a single image is evaluated in little more time than this."""
    for layer in block.modules():
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is not None:
                yield tensor
