"""Copies of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["deep_copy", "kept_values", "light_copy", "state_kept"]


def deep_copy(model: nn.Module) -> nn.Module:
    """A copy of its own.

    Tensors that modules compute and keep (the weight of a pruned layer) are copied without their history, for which
    ``copy.deepcopy`` would refuse them.
    """
    return copy.deepcopy(model, _computed(model))


def light_copy(model: nn.Module) -> nn.Module:
    """A copy to evaluate without gradient at will: of its own but for the parameters, which it shares."""
    return copy.deepcopy(model, {**_computed(model), **{id(parameter): parameter for parameter in model.parameters()}})


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Undo, when the context ends, what calls write into the attributes of modules, such as a grid kept for later.

    PyTorch's own modules write into their buffers only, which are not undone.
    """
    before = [
        (module, {name: _shallow(value) for name, value in vars(module).items()}) for module in _not_torchs(model)
    ]
    try:
        yield
    finally:
        for module, members in before:
            vars(module).clear()
            vars(module).update(members)


def kept_values(model: nn.Module) -> Iterator[Any]:
    """What modules other than PyTorch's own hold in their attributes, and in lists and dicts there."""
    for module in _not_torchs(model):
        for name, value in vars(module).items():
            if name not in {"_parameters", "_buffers", "_modules"}:
                yield from tree_leaves(value) if type(value) in (dict, list, tuple) else (value,)


def _not_torchs(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if not type(module).__module__.startswith("torch.nn."))


def _shallow(value: Any) -> Any:
    return copy.copy(value) if type(value) in (dict, list, set) else value


def _computed(model: nn.Module) -> dict[int, Tensor]:
    values = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}
