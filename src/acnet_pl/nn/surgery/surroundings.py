"""Keep what a trace may change outside the network: globals, class attributes, what hooks collect, random numbers."""

from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from acnet_pl.nn.surgery.copying import holds_values, is_torchs
from acnet_pl.nn.surgery.functions import is_filled, is_users, named, reachable
from acnet_pl.nn.surgery.tensors import tensors_kept

__all__ = ["all_kept", "randomness_kept", "settings_of"]

_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)  # exactly these: a subclass may do anything when it is read
_CONTAINERS = (*_MAPPINGS, list, set, deque)


@contextmanager
def all_kept(model: nn.Module) -> Iterator[None]:
    """Restore attributes of modules, their tensors and what their code keeps elsewhere when the context ends.

    A forward may keep values in globals or class attributes, such as a cache or a choice made at the first call. While
    it is traced these values are symbols, and on another path they may be wrong.
    """
    places = _places(model)
    with tensors_kept(model), randomness_kept():
        try:
            yield
        finally:
            for place in places:
                place.restore()


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Restore the generators of PyTorch's CPU, Python and, if it is imported, NumPy when the context ends."""
    numpy: Any = sys.modules.get("numpy")
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy:
            numpy.random.set_state(states[2])


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return a module's plain attributes, such as its mode."""
    plain = (int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(one, plain) for one in value))
    }


def _places(model: nn.Module) -> list[_Place | _Cell]:
    modules = {type(module): module for module in model.modules() if is_users(type(module))}
    spaces: dict[int, tuple[dict[str, Any], set[str]]] = {}
    names: set[str] = set()
    functions: dict[int, Any] = {}
    for module in model.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        functions |= {id(hook): hook for hook in hooks if not _is_own(_plain(hook))}
    for module in modules.values():
        functions |= {id(function): function for function in reachable(module).values()}
    for function in functions.values():
        if isinstance(function := _plain(function), FunctionType) and is_users(function):
            _, asked = spaces.setdefault(id(function.__globals__), (function.__globals__, set()))
            asked |= named(function)
            names |= asked
    classes = dict.fromkeys(base for kind in modules for base in kind.__mro__ if is_users(base))
    held = [place for function in functions.values() for place in _held_by(function)]
    held += [_Place(vars(module), None) for module in model.modules() if not is_torchs(module)]
    return [*(_Place(*space) for space in spaces.values()), *(_Place(kind, names) for kind in classes), *held]


def _is_own(hook: Any) -> bool:
    """Return True for a hook with which a trace records."""
    return str(getattr(hook, "__module__", "")).startswith(__name__.rpartition(".")[0])


def _plain(function: Any) -> Any:
    """Return the function of a method or of what functools.partial returns."""
    while isinstance(function, (partial, MethodType)):
        function = function.func if isinstance(function, partial) else function.__func__
    return function


def _held_by(function: Any) -> Iterator[_Place | _Cell]:
    """Iterate over the places in which a function keeps values between its calls."""
    if isinstance(function, partial):
        yield _Place({**dict(enumerate(function.args)), **function.keywords}, None)
        yield from _held_by(function.func)
    elif isinstance(function, MethodType):
        if not isinstance(function.__self__, (type, nn.Module, ModuleType)) and holds_values(function.__self__):
            yield _Place(function.__self__, None)
        yield from _held_by(function.__func__)
    elif isinstance(function, FunctionType):
        defaults = dict(enumerate(function.__defaults__ or ())), function.__kwdefaults__ or {}, vars(function)
        yield from (_Place(values, None) for values in defaults if values)
        yield from (_Cell(cell) for cell in function.__closure__ or () if is_filled(cell))


class _Cell:
    """A variable that a function closes over, its value, and the contents of this value."""

    def __init__(self, cell: CellType) -> None:
        self.cell, self.before = cell, cell.cell_contents
        self.contents = [*_contents(self.before)]

    def restore(self) -> None:
        _restore(self.contents)
        if not is_filled(self.cell) or self.cell.cell_contents is not self.before:
            self.cell.cell_contents = self.before


class _Place:
    """Some names in a dict, class, Python module or object, all if None, their values, and the contents of these."""

    def __init__(self, owner: Any, names: Set[str] | None, depth: int = 0) -> None:
        self.owner = owner
        self.names = names
        self.before = self._now()
        self.contents = [each for value in self.before.values() for each in _contents(value)]
        self.drawn = [(one, one.get_state()) for one in self.before.values() if isinstance(one, torch.Generator)]
        objects = [value for value in self.before.values() if depth == 0 and _is_object(value)]
        self.inner = [_Place(value, _names_in(value, names), depth=1) for value in objects]

    def restore(self) -> None:
        for place in self.inner:
            place.restore()
        _restore(self.contents)
        for generator, state in self.drawn:
            generator.set_state(state)
        now = self._now()
        for name in {*self.before, *now}:
            if name not in self.before and name in now:
                self._drop(name)
            elif name in self.before and (name not in now or now[name] is not self.before[name]):
                self._put(name, self.before[name])

    def _now(self) -> dict[str, Any]:
        values = self.owner if isinstance(self.owner, dict) else vars(self.owner)
        return {name: values[name] for name in (values if self.names is None else self.names) if name in values}

    def _put(self, name: str, value: Any) -> None:
        if isinstance(self.owner, dict):
            self.owner[name] = value
        else:
            setattr(self.owner, name, value)

    def _drop(self, name: str) -> None:
        if isinstance(self.owner, dict):
            del self.owner[name]
        else:
            delattr(self.owner, name)


def _names_in(value: Any, names: Set[str] | None) -> Set[str] | None:
    """Return the names that code may set in an object, or the named ones of a Python module, which has many."""
    if isinstance(value, ModuleType):
        return names or set()
    return None if names is None else vars(value).keys() | names


def _is_object(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] not in sys.stdlib_module_names | {"torch"}
    if isinstance(value, type):
        return is_users(value) and not issubclass(value, nn.Module)
    return not isinstance(value, (nn.Module, *_CONTAINERS)) and not callable(value) and holds_values(value)


def _contents(value: Any, depth: int = 3) -> Iterator[tuple[Any, list[Any]]]:
    """Iterate over the containers in a value, down to some depth, with what they contain."""
    if type(value) in _CONTAINERS:
        items = _items(value)
        yield value, items
        for item in items if depth else ():
            yield from _contents(item, depth - 1)


def _restore(contents: list[tuple[Any, list[Any]]]) -> None:
    for container, items in contents:
        if [*map(id, _items(container))] != [*map(id, items)]:
            _refill(container, items)


def _items(container: Any) -> list[Any]:
    return [part for pair in container.items() for part in pair] if type(container) in _MAPPINGS else [*container]


def _refill(container: Any, items: list[Any]) -> None:
    container.clear()
    if type(container) in _MAPPINGS:
        container.update(zip(items[::2], items[1::2], strict=True))
    elif isinstance(container, set):
        container.update(items)
    else:
        container.extend(items)
