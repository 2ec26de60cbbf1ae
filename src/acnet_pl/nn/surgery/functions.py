"""List the functions that a network's code may call, and the names and strings in them."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import pairwise
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

__all__ = [
    "Key",
    "called_methods",
    "closed_over",
    "codes",
    "in_place_of",
    "is_cached",
    "is_filled",
    "is_users",
    "named",
    "names_in",
    "reachable",
    "strings_in",
]

_CACHED = type(lru_cache(len))

Key = tuple[int, str]
"""Key of a function: how many classes up it was found (-1 for a global one, -2 for one in a closure), and its name."""


def is_users(thing: Any) -> bool:
    """Return True if a class or function belongs neither to PyTorch nor to Python."""
    return _package(thing) not in (sys.stdlib_module_names | {"torch"}) - {"__main__"}


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def reachable(module: nn.Module) -> dict[Key, FunctionType]:
    """Return the functions that a forward may call by name: methods, those in attributes and closures, global ones.

    Functions of libraries other than the module's own are left out: on another path they might do anything.
    """
    homes = {_package(base) for base in type(module).__mro__}
    found: dict[Key, FunctionType] = {}
    waiting: list[tuple[Key, Any]] = list(_members(module, "forward", False))
    while waiting:
        key, function = waiting.pop()
        if key in found or not isinstance(function, FunctionType) or not is_users(function):
            continue
        if _package(function) not in homes and "-packages" in function.__code__.co_filename:
            continue
        found[key] = function
        for code in codes(function.__code__):
            for name in code.co_names:
                waiting += _members(module, name, "super" in code.co_names)
            waiting += (((-1, name), function.__globals__.get(name)) for name in _globals_in(code))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            waiting += [((-2, name), cell.cell_contents)] if is_filled(cell) else []
    return found


@lru_cache(maxsize=4096)
def _globals_in(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals, which a code object keeps together with those of attributes."""
    return tuple(one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _members(module: nn.Module, name: str, inherited: bool) -> Iterator[tuple[Key, Any]]:
    """Iterate over what a name may mean in a module: an attribute, a method and, if asked, overridden methods."""
    if name in vars(module):
        yield (0, name), _function_of(vars(module)[name])
        return
    homes = [depth for depth, kind in enumerate(type(module).__mro__) if name in vars(kind)]
    for depth in homes if inherited else homes[:1]:
        yield (depth, name), _function_of(vars(type(module).__mro__[depth])[name])


def _function_of(value: Any) -> Any:
    """Return the function that Python calls for a property, a class or static method, or a method that is cached."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, (classmethod, staticmethod)):
        return value.__func__
    if isinstance(value, cached_property):
        return value.func
    return value.__wrapped__ if isinstance(value, _CACHED) else value


def is_cached(kind: type[nn.Module], key: Key) -> bool:
    """Return True for a method that keeps its results, so that a call may not enter it."""
    depth, name = key
    return depth >= 0 and isinstance(vars(kind.__mro__[depth]).get(name), (_CACHED, cached_property))


def in_place_of(function: FunctionType, value: Any) -> Any:
    """Return a function as what stands in a class for another one: a property, a class method and so on."""
    if isinstance(value, property):
        return property(function, value.fset, value.fdel)
    if isinstance(value, (classmethod, staticmethod)):
        return type(value)(function)
    return property(function) if isinstance(value, cached_property) else function


def codes(code: CodeType) -> Iterator[CodeType]:
    """Iterate over a code object and those nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def called_methods(functions: Mapping[Key, FunctionType]) -> set[CodeType]:
    """Return the code of those functions that are methods called where they are named, not chosen among values."""
    called, chosen = {"forward"}, set[Any]()
    for function in functions.values():
        for code in codes(function.__code__):
            for one in dis.get_instructions(code):
                if one.opname == "LOAD_METHOD" or (one.opname == "LOAD_ATTR" and "NULL|self" in one.argrepr):
                    called.add(one.argval)
                elif one.opname == "LOAD_ATTR":
                    chosen.add(one.argval)
    return {one.__code__ for (depth, name), one in functions.items() if depth >= 0 and name in called - chosen}


def names_in(module: nn.Module) -> set[str]:
    """Return the names of attributes and globals in the code of a module's forward and of what it may call."""
    return {name for function in reachable(module).values() for name in named(function)}


def named(function: FunctionType) -> set[str]:
    """Return the names of attributes and globals in the code of a function and of functions in its closure."""
    seen: list[FunctionType] = []
    waiting: list[Any] = [function]
    while waiting:
        if isinstance(one := waiting.pop(), FunctionType) and one not in seen:
            seen.append(one)
            waiting += [cell.cell_contents for cell in one.__closure__ or () if is_filled(cell)]
    return {name for one in seen for code in codes(one.__code__) for name in code.co_names}


def closed_over(function: FunctionType) -> Iterator[nn.Module]:
    """Iterate over the modules in the closure of a function, and of functions and methods of modules there."""
    seen: list[Any] = []
    waiting: list[Any] = [function]
    while waiting:
        one = waiting.pop()
        if isinstance(one, nn.Module):
            yield one
        elif isinstance(one, MethodType):
            waiting.append(one.__self__)
        elif isinstance(one, FunctionType) and one not in seen:
            seen.append(one)
            waiting += [cell.cell_contents for cell in one.__closure__ or () if is_filled(cell)]


def is_filled(cell: CellType) -> bool:
    """Return True if a cell of a closure has a value, which may come later."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def strings_in(module: nn.Module, functions: Iterable[FunctionType] | None = None) -> list[str]:
    """List short strings in the code of a module's forward and of what it may call, at most 20.

    They are constants, keys of dicts that the code names (globals, attributes and an nn.ModuleDict), and what stands
    elsewhere in names of attributes in the place of a string, as in ``getattr(self, "act_" + self.kind)``.
    """
    found: set[Any] = set()
    for function in reachable(module).values() if functions is None else functions:
        for name in named(function):
            for value in (function.__globals__.get(name), getattr(module, name, None)):
                found |= {*value} if isinstance(value, (dict, nn.ModuleDict)) else set()
        constants = [constant for code in codes(function.__code__) for constant in _constants(code)]
        found |= {each for each in constants if isinstance(each, str) and each != function.__doc__}
    strings = sorted(each for each in found if isinstance(each, str) and len(each) <= 40)[:20]
    return [*strings, *(each for each in _parts_of_names(module) if each not in strings)]


def _parts_of_names(module: nn.Module) -> list[str]:
    names = {*module._modules, *vars(module)}
    found: set[str] = set()
    for value in vars(module).values():
        for name in names if isinstance(value, str) and value else ():
            start, matched, end = name.partition(value)
            if matched and (start or end):
                like = (one for one in names if one.startswith(start) and one.endswith(end))
                found |= {one[len(start) : len(one) - len(end)] for one in like if len(one) > len(start + end)}
    return sorted(found)[:10]


def _constants(code: CodeType) -> Iterator[Any]:
    """Iterate over the constants of code, with the keys of dicts that it builds and what it looks for in tuples."""
    yield from code.co_consts
    for one, following in pairwise(dis.get_instructions(code)):
        if following.opname in ("BUILD_CONST_KEY_MAP", "CONTAINS_OP") and isinstance(one.argval, (tuple, frozenset)):
            yield from one.argval
