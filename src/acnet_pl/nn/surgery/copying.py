"""Copies of networks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

__all__ = ["deep_copy", "inherit_hooks", "kept_values", "light_copy", "state_kept", "uncompiled"]


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def deep_copy(model: nn.Module) -> nn.Module:
    """A copy of its own.

    Tensors that modules compute and keep (the weight of a pruned layer) are copied without their history, for which
    ``copy.deepcopy`` would refuse them.
    """
    return _like(copy.deepcopy(model, _computed(model)), model)


def light_copy(model: nn.Module) -> nn.Module:
    """A copy to evaluate without gradient at will: of its own but for the parameters, which it shares."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return _like(copy.deepcopy(model, {**_computed(model), **shared}), model)


def uncompiled(model: nn.Module) -> nn.Module:
    """The network inside what ``torch.compile`` returned, or the network itself.

    Raises:
        ValueError: A module inside it is compiled, and not the whole.
    """
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:  # nothing has been compiled yet
        return model
    while isinstance(model, dynamo.OptimizedModule):
        model = model._orig_mod
    for name, module in model.named_modules():
        if isinstance(module, dynamo.OptimizedModule):
            raise ValueError(
                f"`{name}` is what torch.compile returned; compile the network after this, or in place with "
                "module.compile(), which keeps the names of its weights"
            )
    return model


def _like(copied: nn.Module, model: nn.Module) -> nn.Module:
    """Give a copy what the copying of an fx.GraphModule loses: modes, and the hooks of the graph module itself."""
    modules = dict(copied.named_modules())
    pairs = [(modules[name], module) for name, module in model.named_modules() if name in modules]
    for new, old in pairs:
        if isinstance(old, fx.GraphModule):
            new.train(old.training)  # of torchvision's feature extractors this chooses the graph
            inherit_hooks(new, old)
    for new, old in pairs:
        new.training = old.training
    return copied


def inherit_hooks(new: nn.Module, old: nn.Module) -> None:
    """Give a module the forward and backward hooks of the one whose place it takes."""
    for name in _HOOKS:
        value: Any = getattr(old, name)
        setattr(new, name, value.copy() if isinstance(value, dict) else value)


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
