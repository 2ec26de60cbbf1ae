"""Notice methods of layers that were replaced, on one layer or on a whole class, so that it computes something else."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["is_older", "why_class_replaced", "why_overridden", "why_replaced"]

_COMPUTING = ("forward", "_conv_forward", "_output_padding", "__call__", "_call_impl", "_wrapped_call_impl")
_DECORATORS = ("torch.utils._contextlib", "torch.amp.autocast_mode")
# Blocks ask at every call: the methods that a class had when it was last looked at, and the answer.
_LAST: WeakKeyDictionary[type[nn.Module], tuple[Sequence[object], str]] = WeakKeyDictionary()


def why_replaced(layer: nn.Module) -> str:
    """Return which method that decides what a layer computes was replaced, on the layer or on its class, or ""."""
    for name in (*_COMPUTING, "_check_input_dim"):
        if name in vars(layer):
            return f"{type(layer).__name__} has a {name} of its own"
    return why_class_replaced(type(layer))


def why_class_replaced(kind: type[nn.Module]) -> str:
    """Return which method that decides what a class computes was replaced, or "".

    It counts as replaced if another package than the class's defines it, whatever its name says. PyTorch's decorators,
    such as ``torch.no_grad()``, do not count.
    """
    if torch.compiler.is_compiling():
        return _find_replaced(kind)
    methods = [getattr(kind, name, None) for name in _COMPUTING]
    last, why = _LAST.get(kind, ((), ""))
    if len(last) != len(methods) or not all(map(is_, last, methods)):
        why = _find_replaced(kind)
        _LAST[kind] = methods, why
    return why


def why_overridden(kind: type[nn.Module]) -> str:
    """Return which method of a block computes something that its ``fuse_branches``, of a base class, cannot tell."""
    pairs = [("forward", "forward_branches"), ("forward", "fuse_branches"), ("forward_branches", "fuse_branches")]
    for name, definition in pairs:
        if is_older(kind, definition, name):
            return (
                f"{kind.__name__} has a {name} of its own with the {definition} of a base class, which does not know "
                "what it computes; define forward_branches and fuse_branches in the class, too, or put what you add "
                "into a module around the block"
            )
    return ""


def is_older(kind: type[nn.Module], name: str, than: str) -> bool:
    """Return True if a method comes from a base class of the class that another method comes from."""
    first, second = (next(i for i, base in enumerate(kind.__mro__) if each in vars(base)) for each in (name, than))
    return first > second


def _find_replaced(kind: type[nn.Module]) -> str:
    for name in _COMPUTING:
        home = next((base for base in kind.__mro__ if name in vars(base)), None)
        if home is not None and _package(vars(home)[name]) != home.__module__.partition(".")[0]:
            return f"the method {name} of {home.__name__} was replaced"
    return ""


def _package(function: object) -> str:
    space = getattr(function, "__globals__", {})  # functools.wraps would change __module__
    while space.get("__name__") in _DECORATORS and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
        space = getattr(function, "__globals__", {})
    return str(space.get("__name__", "")).partition(".")[0]
