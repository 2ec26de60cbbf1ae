"""FoldCache: keeps what was folded in eval mode for as long as it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FoldCache", "Folded"]

Folded = tuple[Tensor, Tensor]  # kernel (O, I/groups, kH, kW) and bias (O,)


class _Entry(NamedTuple):
    folded: Folded
    state: list[tuple[int, int, int]]  # id, address and version of each source
    epsilons: list[float]
    alive: list[tuple[Tensor, Tensor]]  # the sources and their storage, held so that no id or address is used again


class FoldCache:
    """Keeps one folded kernel and bias until a tensor or eps that they are made of changes or is replaced.

    Copying or pickling it gives an empty one.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def __reduce__(self) -> tuple[type[FoldCache], tuple[()]]:
        return FoldCache, ()

    def clear(self) -> None:
        """Forget; for changes that PyTorch's version counters do not show."""
        self._entry = None

    def get(self, fold: Callable[[], Folded], kernels: Iterable[Tensor], norms: Iterable[nn.Module | None]) -> Folded:
        """Return ``fold()``, or what it returned before if nothing has changed since and no gradient is wanted.

        Args:
            fold: Computes the kernel and bias.
            kernels: The kernels that it uses.
            norms: The batch norms and scales that it uses.
        """
        if torch.compiler.is_compiling():
            return fold()
        sources: list[Tensor | None] = list(kernels)
        epsilons = []
        for norm in norms:
            if norm is not None:
                # Training changes running statistics, not their versions; it counts in num_batches_tracked, a buffer.
                sources += (*norm._parameters.values(), *norm._buffers.values())
                if isinstance(norm, _BatchNorm):
                    epsilons.append(norm.eps)
        tensors = [source for source in sources if source is not None]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            self.clear()  # an optimizer may step next, and PyTorch's fused ones count no version
            return fold()
        entry = self._entry
        try:
            state = [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors]
            if entry is not None and entry.state == state and entry.epsilons == epsilons:
                return entry.folded
            with torch.inference_mode(False), torch.no_grad():
                folded = fold()
            folded[0].data_ptr()
        except RuntimeError:  # tensors without storage or version: inside torch.func, or made in inference mode
            return fold()
        self._entry = _Entry(folded, state, epsilons, [(tensor, tensor.detach()) for tensor in tensors])
        return folded
