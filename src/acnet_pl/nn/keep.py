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

__all__ = ["KeptKernels", "keep_fused", "kept_or"]


class _Kept(NamedTuple):
    tensors: list[Tensor]
    marks: list[object]
    fused: Fused


_kept: WeakKeyDictionary[nn.Module, _Kept | None] = WeakKeyDictionary()  # not in the blocks, whose copies may train


class KeptKernels:
    """Fused kernels of a model's blocks, used and made within a context that may be entered again.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks = [module for module in model.modules() if isinstance(module, FusibleConv)]
        self._aside: dict[nn.Module, _Kept | None] = dict.fromkeys(blocks)
        self._entered: list[nn.Module] = []

    def __enter__(self) -> None:
        self._entered = [block for block in self._aside if block not in _kept]
        _kept.update((block, self._aside[block]) for block in self._entered)

    def __exit__(self, *_: object) -> None:
        for block in self._entered:
            self._aside[block] = _kept.pop(block, None)


@contextmanager
def keep_fused(model: nn.Module) -> Iterator[None]:
    """Make every block in eval mode keep its fused kernel from the first batch on, within this context.

    Without it a block fuses its kernel for each batch. That time is small for a large batch, but exceeds the
    convolution's own for a single image. A block whose weights, running statistics or eps change, or
    which `torch.func.functional_call` gives others, fuses anew. Changes in place through ``.data`` go unseen, so make
    none within the context. Gradients of weights are still computed correctly: blocks keep no kernel while they are
    required.

    Args:
        model: Any module.

    Examples:
        >>> import torch
        >>> from acnet_pl import ACBlock
        >>> block = ACBlock(4, 4, 3).eval()
        >>> with torch.no_grad(), keep_fused(block):
        ...     outputs = [block(torch.randn(1, 4, 8, 8)) for _ in range(10)]
    """
    with KeptKernels(model):
        yield


def kept_or(block: FusibleConv, fuse: Callable[[], Fused]) -> Fused:
    """Return the kernel that `keep_fused` keeps for the block, or ``fuse()`` outside it or if gradients are needed."""
    if torch.compiler.is_compiling() or block not in _kept or torch._C._are_functorch_transforms_active():
        return fuse()
    tensors, marks = _state(block)
    if any(tensor.is_inference() for tensor in tensors):  # their changes are not counted
        return fuse()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return fuse()
    kept = _kept[block]
    if kept is None or marks != kept.marks or any(map(is_not, tensors, kept.tensors)):
        with torch.inference_mode(False), torch.no_grad():
            kept = _kept[block] = _Kept(tensors, marks, fuse())
    return kept.fused


def _state(block: nn.Module) -> tuple[list[Tensor], list[object]]:
    """Return parameters and buffers, and what changes with their values, but for changes in place through ``.data``.

    Read directly, since a single image is evaluated in little more time than this.
    """
    tensors: list[Tensor] = []
    marks: list[object] = []
    layers: list[nn.Module] = [block]
    for layer in layers:  # grows as it goes
        layers += [inner for inner in layer._modules.values() if inner is not None]
        tensors += [tensor for tensor in layer._parameters.values() if tensor is not None]
        if layer._buffers:
            tensors += [tensor for tensor in layer._buffers.values() if tensor is not None]
            marks.append(getattr(layer, "eps", None))
    for tensor in tensors:
        marks += (0 if tensor.is_inference() else tensor._version, tensor.data_ptr(), tensor.dtype)
    return tensors, marks
