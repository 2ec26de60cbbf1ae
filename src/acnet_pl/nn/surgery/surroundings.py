"""Keep what a trace may change outside the network: the globals and class attributes that its code names."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from torch import nn

from acnet_pl.nn.surgery.copying import holds_values, state_kept
from acnet_pl.nn.surgery.functions import is_users, named, reachable

__all__ = ["all_kept", "settings_of"]

_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)  # exactly these: a subclass may do anything when it is read
_CONTAINERS = (*_MAPPINGS, list, set, deque)


@contextmanager
def all_kept(model: nn.Module) -> Iterator[None]:
    """Restore attributes of modules (`state_kept`) and what their code keeps elsewhere when the context ends.

    A forward may keep values in globals or class attributes, such as a cache or a choice made at the first call. While
    it is traced these values are symbols, and on another path they may be wrong.
    """
    places = _places(model)
    with state_kept(model):
        try:
            yield
        finally:
            for place in places:
                place.restore()


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return a module's plain attributes, such as its mode."""
    plain = (int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(one, plain) for one in value))
    }


def _places(model: nn.Module) -> list[_Place]:
    modules = {type(module): module for module in model.modules() if is_users(type(module))}
    spaces: dict[int, tuple[dict[str, Any], set[str]]] = {}
    names: set[str] = set()
    for module in modules.values():
        for function in reachable(module).values():
            _, asked = spaces.setdefault(id(function.__globals__), (function.__globals__, set()))
            asked |= named(function)
            names |= asked
    classes = dict.fromkeys(base for kind in modules for base in kind.__mro__ if is_users(base))
    return [_Place(*space) for space in spaces.values()] + [_Place(kind, names) for kind in classes]


class _Place:
    """Some names in a dict, class or object, their values, and the contents of these values."""

    def __init__(self, owner: Any, names: Set[str], depth: int = 0) -> None:
        self.owner = owner
        self.names = names
        self.before = self._now()
        self.contents = [(value, _items(value)) for value in self.before.values() if type(value) in _CONTAINERS]
        objects = [value for value in self.before.values() if depth == 0 and _is_object(value)]
        self.inner = [_Place(value, vars(value).keys() | names, depth=1) for value in objects]

    def restore(self) -> None:
        for place in self.inner:
            place.restore()
        for container, items in self.contents:
            if [*map(id, _items(container))] != [*map(id, items)]:
                _refill(container, items)
        now = self._now()
        for name in self.names:
            if name not in self.before and name in now:
                self._drop(name)
            elif name in self.before and (name not in now or now[name] is not self.before[name]):
                self._put(name, self.before[name])

    def _now(self) -> dict[str, Any]:
        values = self.owner if isinstance(self.owner, dict) else vars(self.owner)
        return {name: values[name] for name in self.names if name in values}

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


def _is_object(value: Any) -> bool:
    return not isinstance(value, (type, nn.Module, *_CONTAINERS)) and not callable(value) and holds_values(value)


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
