"""What hooks on layers look at, read from their code."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["hooked_between", "reads_parameters"]

_PARAMETERS = {"weight", "bias", "parameters", "named_parameters", "_parameters", "state_dict"}


def hooked_between(first: nn.Module, second: nn.Module) -> bool:
    """Whether a hook may see or change the value that one module gives and the other takes.

    A forward hook of the second sees it as well, unless its code looks at nothing but the output.
    """
    hooks = [first._forward_hooks, first._backward_hooks, second._forward_pre_hooks, second._backward_pre_hooks]
    return any(hooks) or any(_looks_beyond_output(hook) for hook in second._forward_hooks.values())


def reads_parameters(layer: nn.Module) -> bool:
    """Whether the code of a hook names a parameter of its layer."""
    return any(_names_in(hook) & _PARAMETERS for hook in _hooks(layer))


def _hooks(layer: nn.Module) -> Iterator[Any]:
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        yield from hooks.values()


def _names_in(hook: Any) -> set[str]:
    """The names of attributes in a hook's code."""
    code = getattr(hook, "__code__", None) or getattr(vars(type(hook)).get("__call__"), "__code__", None)
    return set(code.co_names) if code is not None else set()


def _looks_beyond_output(hook: Any) -> bool:
    """Whether a forward hook uses its module or the inputs: any argument but the last; True where that is not known."""
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
