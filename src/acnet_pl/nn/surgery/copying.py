"""Copy networks, independently or with shared parameters."""

from __future__ import annotations

import copy
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.functions import closed_over

__all__ = [
    "deep_copy",
    "holds_values",
    "inherit_hooks",
    "is_torchs",
    "kept_values",
    "leaves_inside",
    "light_copy",
    "memory_of",
    "own_forward",
    "refuse_equal",
    "refuse_lazy",
    "uncompiled",
]


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


_WHOLE = (nn.Module, Tensor, type, str, fx.Proxy)
_PLAIN = {type(None), bool, int, float, str, torch.dtype, torch.device}  # the types of most attributes of layers
_CONTAINERS = {dict, OrderedDict, set, list, tuple}
_MACHINERY = {"torch", "builtins", "pytorch_lightning", "lightning", "lightning_fabric", "weakref", "logging"}
_REGISTERED = {"_parameters", "_buffers", "_modules"}


def deep_copy(model: nn.Module) -> nn.Module:
    """Return an independent copy of a network.

    Tensors that modules compute and keep (the weight of a pruned layer) are copied without their autograd history,
    which ``copy.deepcopy`` does not accept.
    """
    return _like(_deepcopy(model, _computed(model)), model)


def light_copy(model: nn.Module) -> nn.Module:
    """Return a copy for evaluation without gradients; parameters are shared, everything else is not."""
    shared: dict[int, Tensor] = {id(parameter): parameter for parameter in model.parameters()}
    memory = {memory_of(parameter) for parameter in shared.values()}
    others = [*model.buffers(), *(value for value in kept_values(model) if isinstance(value, Tensor))]
    shared |= {id(tensor): tensor for tensor in others if memory_of(tensor) in memory}
    return _like(_deepcopy(model, {**_computed(model), **shared}), model)


def _deepcopy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        copied = copy.deepcopy(model, {**memo, **_emptied(model)})
    except Exception as error:
        for name, module in model.named_modules():
            for attribute, value in vars(module).items():
                try:
                    if attribute not in _REGISTERED:
                        copy.deepcopy(value, {**memo, id(module): module})
                except Exception:
                    raise ValueError(
                        f"the network cannot be copied because of `{f'{name}.{attribute}'.lstrip('.')}`: {error}; "
                        "remove it first, or give its class a __deepcopy__"
                    ) from error
        raise
    original = {module: name for name, module in model.named_modules()}
    if shared := [original[module] or "the network" for module in copied.modules() if module in original]:
        raise ValueError(
            f"the network cannot be copied: the copy still has the original's `{shared[0]}`, which would be changed; "
            "the class has a __deepcopy__ that gives the module itself"
        )
    blocks = (block for block in copied.modules() if isinstance(block, FusibleConv))
    checked = {inner for block in blocks for inner in block.modules()}  # for replaced methods, when they are fused
    for name, module in copied.named_modules():
        for attribute, value in vars(module).items() if module not in checked else ():
            for held in closed_over(value) if isinstance(value, FunctionType) else ():
                if held in original:
                    raise ValueError(
                        f"the network cannot be copied: the function in `{f'{name}.{attribute}'.lstrip('.')}` uses "
                        f"`{original[held] or 'the network'}`, as a copy of it would too; make it a method"
                    )
    return copied


def _emptied(model: nn.Module) -> dict[int, Any]:
    """Map the empty dicts and sets, a dozen per module, to new ones, which ``copy.deepcopy`` takes long to make."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(value): type(value)() for value in held if type(value) in (OrderedDict, dict, set) and not value}


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network inside the result of ``torch.compile``, or the network itself if it is not compiled.

    Raises:
        TypeError: It is no network.
        ValueError: Only a module inside the network is compiled.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a network, an nn.Module, got {_described(model)}")
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:  # nothing was compiled yet
        return model
    while isinstance(model, dynamo.OptimizedModule):
        model = model._orig_mod
    for name, module in model.named_modules():
        if isinstance(module, dynamo.OptimizedModule):
            raise ValueError(
                f"`{name}` was returned by torch.compile; compile the network afterwards, or in place with "
                "module.compile(), which keeps the names of its weights"
            )
    return model


def _described(given: Any) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}; give a network of this class"
    if isinstance(given, Mapping):
        return f"{type(given).__name__}; load the weights into a network first"
    if isinstance(given, torch.export.ExportedProgram):
        return "an ExportedProgram; fuse or convert the network before it is exported"
    return f"{type(given).__name__}"


def refuse_lazy(model: nn.Module) -> None:
    """Raise ValueError if a lazy module is not initialised yet, so that nothing can be known of its layers."""
    for name, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in [*module._parameters.values(), *module._buffers.values()]):
            raise ValueError(
                f"`{name}` ({type(module).__name__}) is not initialised yet; evaluate the network once first, as in "
                "model(torch.zeros(1, 3, 224, 224))"
            )


def refuse_equal(model: nn.Module) -> None:
    """Raise ValueError if a class of modules compares by value: PyTorch itself takes equal modules for one."""
    for name, module in model.named_modules():
        if any(getattr(type(module), method) is not getattr(object, method) for method in ("__eq__", "__hash__")):
            raise ValueError(
                f"`{name}`: {type(module).__name__} has an __eq__ or __hash__ of its own, and PyTorch takes modules "
                "that are equal for one and the same; compare them by another method"
            )


def _like(copied: nn.Module, model: nn.Module) -> nn.Module:
    """Restore what copying an fx.GraphModule loses: training modes, hooks, and attributes that hooks may need."""
    modules = dict(copied.named_modules())
    pairs = [(modules[name], module) for name, module in model.named_modules() if name in modules]
    for new, old in pairs:
        if isinstance(old, fx.GraphModule):
            new.train(old.training)  # chooses the graph of torchvision's feature extractors
            inherit_hooks(new, old)
            for name in vars(old).keys() - vars(new).keys():
                if getattr(vars(old)[name], "__self__", None) is not old:  # a method of the original itself
                    new.__dict__[name] = vars(old)[name]
    for new, old in pairs:
        new.training = old.training
    return copied


def inherit_hooks(new: nn.Module, old: nn.Module) -> None:
    """Copy the forward and backward hooks of a replaced module to its replacement."""
    for name in _HOOKS:
        value: Any = getattr(old, name)
        setattr(new, name, value.copy() if isinstance(value, dict) else value)


def kept_values(model: nn.Module) -> Iterator[Any]:
    """Iterate over the values in attributes of modules other than PyTorch's, and in lists and dicts there.

    Attributes that are numbers or strings are left out.
    """
    return _leaves(module for module in model.modules() if not is_torchs(module))


def holds_values(value: Any) -> bool:
    """Return True for an object of a user-defined class, except machinery such as a trainer or a weak reference."""
    home = type(value).__module__.partition(".")[0]
    has_dict = type(value).__dictoffset__ != 0  # asked of the value, its own __getattr__ might answer
    return home not in _MACHINERY and type(value) not in weakref.ProxyTypes and has_dict


def leaves_inside(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Iterate over the values inside containers, and inside objects that are neither modules nor PyTorch's."""
    seen = set() if seen is None else seen
    waiting = [value]  # however deep it is, such as a linked list
    while waiting:
        value = waiting.pop()
        if type(value) in _PLAIN or type(value) in weakref.ProxyTypes or isinstance(value, _WHOLE) or callable(value):
            yield value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        parts = [*value] if isinstance(value, (list, tuple, set, frozenset, deque)) else []
        parts += [*value.values()] if not parts and isinstance(value, Mapping) else []
        if holds_values(value):
            parts += [*vars(value).values()]
        if not parts:
            yield value
        waiting += reversed(parts)


def memory_of(tensor: Tensor) -> int:
    """Return a number that identifies a tensor's memory; views of the tensor have the same number."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except Exception:  # a tensor without its own storage, such as an uninitialised one
        return id(tensor)


@contextmanager
def own_forward(module: nn.Module) -> Iterator[None]:
    """Move a forward that a module has in an attribute to its class, where torch.fx looks for it.

    Raises:
        TypeError: The forward is not a method of the module, so a copy would evaluate a different module.
    """
    forward = vars(module).get("forward")
    if forward is None:
        yield
        return
    if getattr(forward, "__self__", None) is not module:
        raise TypeError("its forward was replaced by a function that is not its method")
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"forward": forward.__func__})
    try:
        yield
    finally:
        module.__class__ = kind


def is_torchs(module: nn.Module) -> bool:
    """Return True for a module of PyTorch, which changes nothing but its tensors when it is called."""
    return type(module).__module__.startswith("torch.nn.")


def _computed(model: nn.Module) -> dict[int, Tensor]:
    values = (leaf for leaf in _leaves(model.modules()) if isinstance(leaf, Tensor))
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}


def _leaves(modules: Iterable[nn.Module]) -> Iterator[Any]:
    for module in modules:
        for name, value in vars(module).items():
            plain = type(value) in _PLAIN or (type(value) in _CONTAINERS and not value)
            if not plain and name not in _REGISTERED:
                yield from leaves_inside(value)
