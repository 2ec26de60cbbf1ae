"""Read from the code of hooks which parts of their layers they look at."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["hooked_between", "reads_parameters"]

_PARAMETERS = {"weight", "bias", "parameters", "named_parameters", "_parameters", "state_dict"}


def hooked_between(first: nn.Module, second: nn.Module) -> bool:
    """Return True if a hook may see or change the value that passes from one module to the other.

    A forward hook of the second module counts too, unless its code uses only the output.
    """
    hooks = [first._forward_hooks, first._backward_hooks, second._forward_pre_hooks, second._backward_pre_hooks]
    return any(hooks) or any(_looks_beyond_output(hook) for hook in second._forward_hooks.values())


def reads_parameters(layer: nn.Module) -> bool:
    """Return True if the code of one of the layer's hooks names a parameter."""
    return any(_names_in(hook) & _PARAMETERS for hook in _hooks(layer))


def _hooks(layer: nn.Module) -> Iterator[Any]:
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        yield from hooks.values()


def _names_in(hook: Any) -> set[str]:
    """Return the names of attributes and globals in a hook's code."""
    code = getattr(hook, "__code__", None) or getattr(vars(type(hook)).get("__call__"), "__code__", None)
    return set(code.co_names) if code is not None else set()


def _looks_beyond_output(hook: Any) -> bool:
    """Return True if a forward hook uses any argument but the last, the output, or if its code is not available."""
    function = getattr(hook, "__func__", hook)
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    names = code.co_varnames[: code.co_argcount][function is not hook :]
    others = set(names[:-1])
    if code.co_flags & inspect.CO_VARARGS:
        others = {*names, code.co_varnames[code.co_argcount + code.co_kwonlyargcount]}
    used = {*code.co_cellvars}
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("LOAD_FAST"):
            used.update(instruction.argval if isinstance(instruction.argval, tuple) else [instruction.argval])
    return bool(others & used)
