"""Read from the code of hooks which parts of their layers they look at."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Collection
from functools import partial
from itertools import pairwise
from types import FunctionType, MethodType
from typing import Any

import torch.nn.modules.module as torch_module
from torch import nn

from acnet_pl.nn.surgery.functions import codes, is_filled

__all__ = ["Boundaries", "is_hooked", "reads_parameters", "refuse_global_hooks"]

_PARAMETERS = {"weight", "bias", "parameters", "named_parameters", "_parameters", "state_dict"}
_AS_A_KEY = ("STORE_SUBSCR", "BINARY_SUBSCR", "BINARY_OP", "IS_OP", "CONTAINS_OP", "COMPARE_OP")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR")


class Boundaries:
    """The modules of a network with hooks, which may see or change what crosses the boundaries of these modules.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._hooked = [(module, {*module.modules()}) for module in model.modules() if is_hooked(module)]
        self._modules = dict(model.named_modules())

    def hooked_between(self, first: nn.Module, second: nn.Module, passed: Collection[str] = ()) -> bool:
        """Return True if a hook may see or change the value that passes from one module to the other.

        It may be a hook of either module, or of one that contains the one but not the other, so that the value crosses
        its boundary. A forward hook at the value's entrance counts too, unless its code uses only the output.

        Args:
            first: The module that gives the value.
            second: The module that takes it.
            passed: Names of modules between them that pass the value on.
        """
        between = {self._modules[name] for name in passed}
        for module, inside in self._hooked:
            leaves, enters = (first in inside, second in inside) if module not in between else (True, False)
            if (leaves and not enters and _sees_exit(module)) or (enters and not leaves and _sees_entrance(module)):
                return True
            if module in between and _sees_entrance(module):
                return True
        return False

    def hooked_around(self, names: Collection[str]) -> str:
        """Return the name of a module with a hook that contains some, but not all modules with these names, or "".

        A value that passes from one of them to another may cross its boundary.
        """
        given = {self._modules[name] for name in names}
        for module, inside in self._hooked:
            if given & inside and given - inside and (_sees_exit(module) or _sees_entrance(module)):
                names_of: dict[nn.Module, str] = {one: name for name, one in self._modules.items()}
                return names_of[module]
        return ""


def reads_parameters(layer: nn.Module) -> bool:
    """Return True if one of the layer's hooks may read or change a parameter.

    It may if its code names one, uses its module other than as a key or for attributes of its own, or is not available.
    """
    hooks = [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
    return any(_may_read(hook, layer) for hook in hooks)


def refuse_global_hooks() -> None:
    """Raise ValueError if a hook of PyTorch's on all modules may change what each of them computes."""
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise ValueError(
            "a hook on all modules (torch.nn.modules.module.register_module_forward_hook or _pre_hook) may change what "
            "each layer computes; remove it first"
        )


def _may_read(hook: Any, layer: nn.Module) -> bool:
    before = 0  # arguments before the module
    if isinstance(hook, partial):
        hook, before = hook.func, len(hook.args)
    method = hook if isinstance(hook, (FunctionType, MethodType)) else type(hook).__call__
    function = getattr(method, "__func__", method)
    if not isinstance(function, FunctionType):
        return True
    before += function is not hook
    code = function.__code__
    all_arguments = before >= code.co_argcount  # *args, or none
    module = code.co_varnames[code.co_argcount + code.co_kwonlyargcount if all_arguments else before :][:1]
    if {*module} & {*code.co_cellvars} or any({*one.co_names, *one.co_consts} & _PARAMETERS for one in codes(code)):
        return True
    if any(cell.cell_contents is layer for cell in function.__closure__ or () if is_filled(cell)):
        return True
    instructions = [each for each in dis.get_instructions(code) if each.opname not in ("CACHE", "NOP", "PRECALL")]
    return any(
        {*module} & _loaded(one) and (all_arguments or not _is_harmless(then)) for one, then in pairwise(instructions)
    )


def _is_harmless(use: dis.Instruction) -> bool:
    own = use.opname in _ATTRIBUTES and use.argval not in vars(nn.Module)
    return own or use.opname in _AS_A_KEY


def _loaded(instruction: dis.Instruction) -> set[str]:
    """Return the local variables that an instruction loads."""
    if not instruction.opname.startswith("LOAD_FAST"):
        return set()
    return {*instruction.argval} if isinstance(instruction.argval, tuple) else {instruction.argval}


def is_hooked(module: nn.Module) -> bool:
    """Return True if a module has forward or backward hooks."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _sees_exit(module: nn.Module) -> bool:
    """Return True if hooks of a module may see or change its output, or the gradient there."""
    gradients = module._backward_hooks or module._backward_pre_hooks
    return bool(gradients) or not all(_ignores_values(hook) for hook in module._forward_hooks.values())


def _sees_entrance(module: nn.Module) -> bool:
    """Return True if hooks of a module may see or change its input, or the gradient there."""
    if not all(_ignores_values(hook) for hook in module._forward_pre_hooks.values()):
        return True
    hooks = [*module._forward_hooks.values(), *module._backward_hooks.values()]
    return any(_looks_beyond_output(hook) for hook in hooks)


def _ignores_values(hook: Any) -> bool:
    """Return True if a hook neither uses any argument but the first, its module, nor returns a value."""
    function = getattr(hook, "__func__", hook)
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return False
    instructions = list(dis.get_instructions(code))
    returned = [one for one, then in pairwise(instructions) if then.opname == "RETURN_VALUE"]
    returned += [one for one in instructions if one.opname == "RETURN_CONST"]
    none = all(one.opname in ("LOAD_CONST", "RETURN_CONST") and one.argval is None for one in returned)
    others = {*_given(hook)[1:]}
    return none and not others & {*code.co_cellvars}.union(*map(_loaded, instructions))


def _given(hook: Any) -> tuple[str, ...]:
    """Return the names of the arguments that a hook is given, without those that keep a value, as ``name=name``."""
    function = getattr(hook, "__func__", hook)
    code = function.__code__
    names: tuple[str, ...] = code.co_varnames[: code.co_argcount][function is not hook :]
    return names[: max(3, len(names) - len(function.__defaults__ or ()))]


def _looks_beyond_output(hook: Any) -> bool:
    """Return True if a forward hook uses any argument but the last, the output, or if its code is not available."""
    function = getattr(hook, "__func__", hook)
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    names = _given(hook)
    others = set(names[:-1])
    if code.co_flags & inspect.CO_VARARGS:
        others = {*names, code.co_varnames[code.co_argcount + code.co_kwonlyargcount]}
    used = {*code.co_cellvars}.union(*map(_loaded, dis.get_instructions(code)))
    return bool(others & used)
