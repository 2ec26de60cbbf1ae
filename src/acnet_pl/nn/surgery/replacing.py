"""Replace modules wherever a network refers to them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

from acnet_pl.nn.surgery.copying import holds_values

__all__ = ["replace_modules"]

Replacements = Mapping[nn.Module, nn.Module]


def replace_modules(model: nn.Module, replacements: Replacements) -> nn.Module:
    """Replace modules of a network in place, under all their names.

    References in attributes of modules are replaced too: in lists, dicts, tuples, partial functions, bound methods and
    objects.

    Returns:
        The model, or its replacement if the model itself is replaced.
    """
    seen: set[int] = set()
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in replacements:
                module._modules[name] = replacements[child]
        _replace_inside(vars(module), replacements, seen)
    return replacements.get(model, model)


def _replace_inside(values: dict[Any, Any], replacements: Replacements, seen: set[int]) -> None:
    for key, value in list(values.items()):
        if not (isinstance(key, str) and (key in {"_parameters", "_buffers", "_modules"} or key.endswith("_hooks"))):
            new = _replaced(value, replacements, seen)
            if new is not value:
                values[key] = new


def _replaced(value: Any, replacements: Replacements, seen: set[int]) -> Any:
    if type(value) in weakref.ProxyTypes:
        return value
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if isinstance(value, (str, int, float, Tensor, type, type(None))):
        return value
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module) and value.__self__ in replacements:
        return MethodType(value.__func__, replacements[value.__self__])
    if type(value) is partial:
        parts = value.func, value.args, value.keywords
        new = tuple(_replaced(part, replacements, seen) for part in parts)
        changed = any(one is not part for one, part in zip(new, parts, strict=True))
        return partial(new[0], *new[1], **new[2]) if changed else value
    if type(value) in (tuple, set, frozenset):
        members = [_replaced(one, replacements, seen) for one in value]
        return type(value)(members) if any(a is not b for a, b in zip(members, value, strict=True)) else value
    if id(value) in seen:
        return value
    seen.add(id(value))
    if isinstance(value, list):
        for index, one in enumerate(value):
            value[index] = _replaced(one, replacements, seen)
    elif isinstance(value, dict):
        _replace_inside(value, replacements, seen)
    elif holds_values(value):
        _replace_inside(vars(value), replacements, seen)
    return value
