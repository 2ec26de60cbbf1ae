"""Keep the values of a network's parameters and buffers while its code is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from acnet_pl.nn.dispatch_mode import DispatchMode
from acnet_pl.nn.surgery.copying import memory_of

__all__ = ["tensors_kept"]


@contextmanager
def tensors_kept(model: nn.Module) -> Iterator[None]:
    """Restore parameters and buffers when the context ends; they are copied only before an operation changes them.

    A forward may change them, as that of a momentum encoder does, and so may ``train`` and ``eval``, as those of layers
    that merge a low-rank update. Copies for trying share the parameters of the user's network.
    """
    tensors = [*model.parameters(), *model.buffers()]
    with _unseen():
        before = [(tensor, tensor.data) for tensor in tensors if not is_lazy(tensor)]
    copies = _CopiesBeforeChange(tensors)
    try:
        with copies:
            yield
    finally:
        with torch.no_grad(), _unseen():
            for tensor, values in before:
                if memory_of(tensor) != memory_of(values) or tensor.shape != values.shape:
                    tensor.data = values
            for tensor, values in copies.made:
                tensor.data.copy_(values)  # unlike `tensor.copy_`, leaves graphs for gradients valid


def _unseen() -> AbstractContextManager[None]:
    """Return a context whose operations no mode sees."""
    context: AbstractContextManager[None] = torch._C._DisableTorchDispatch()
    return context


class _CopiesBeforeChange(DispatchMode):
    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, Tensor]] = []
        self._waiting: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            self._waiting.setdefault(memory_of(tensor), []).append(tensor)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable and self._waiting:
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, Tensor):
                    for tensor in self._waiting.pop(memory_of(value), ()):
                        self.made.append((tensor, tensor.detach().clone()))
        return func(*args, **(kwargs or {}))
