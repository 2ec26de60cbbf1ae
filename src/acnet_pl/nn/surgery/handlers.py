"""Observe which of the user's functions handle the outputs of layers while a network is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

from acnet_pl.nn.surgery.choosing import slices
from acnet_pl.nn.surgery.copying import holds_values
from acnet_pl.nn.surgery.handled import Handled, whose

__all__ = ["Handlers"]

_CONTAINERS = (list, tuple, dict, set)


class Handlers:
    """Records which functions handle layers' outputs.

    Args:
        layers_of: Returns the names of the layers whose output a value is, if any.
        names: Those of the layers.
        modules: Those of the network: an nn.Sequential that is none of them was made on the spot. None is unknown.

    Attributes:
        handled: What was recorded.
    """

    def __init__(
        self,
        layers_of: Callable[[Any], Iterable[str]],
        names: Mapping[nn.Module, str],
        modules: Collection[nn.Module] | None = None,
    ) -> None:
        self.handled = Handled()
        self._names = names
        self._modules = modules
        self._layers_of = layers_of

    def note_call(self, layer: str) -> None:
        """Record the function that calls a layer now, unless it is PyTorch's."""
        frame: FrameType | None = sys._getframe(1)
        if self._modules is not None and (maker := _maker_of_sequence(frame, self._modules)) and slices(maker):
            self.handled.loose.add(layer)
        while frame is not None and whose(frame.f_code.co_filename) == "between":
            frame = frame.f_back
        if frame is not None and whose(frame.f_code.co_filename) == "user":
            self.handled.called[layer].add((frame.f_code, frame.f_lasti))
            self._note_held(frame)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the functions that are called, and that take or give outputs, within the context."""
        before: Any = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            if hasattr(before, "enable"):  # cProfile's, which is no Python function
                before.enable()
            elif before is not None:
                sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, returned: Any) -> None:
        if event not in ("call", "return") or whose(frame.f_code.co_filename) != "user":
            return
        if _is_generated(frame):
            return
        self.handled.entered.add(frame.f_code)
        if _is_hook(frame):
            return
        if frame.f_code.co_name == "__exit__" and frame.f_back is not None:
            self.handled.guarded.add(frame.f_back.f_code)
        self._note_held(frame)
        if event == "return" and frame.f_back is not None:
            self._note_holding(frame.f_back.f_code, "", returned)
            for layer in self._layers_in(_values_in(returned)):
                self.handled.givers[layer].add(frame.f_code)
        for value in _values_in(returned if event == "return" else [*frame.f_locals.values()]):
            for layer in self._layers_of(value):
                (self.handled.given if event == "return" else self.handled.taken)[layer].add(frame.f_code)

    def _note_held(self, frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            self._note_holding(frame.f_code, name, value)
            for layer in self._layers_of(value):
                self.handled.named[layer].add((frame.f_code, name))

    def _note_holding(self, code: CodeType, name: str, value: Any) -> None:
        inner = [*_members_of(value)]
        for one in inner:
            for layer in self._layers_of(one):
                self.handled.held[layer].add((code, name))
        for layer in self._layers_in([value, *inner]):
            self.handled.holding[layer].add((code, name))

    def _layers_in(self, values: Iterable[Any]) -> Iterator[str]:
        for value in values:
            if isinstance(value, nn.Module) and value in self._names:
                yield self._names[value]


def _maker_of_sequence(frame: FrameType | None, modules: Collection[nn.Module]) -> CodeType | None:
    """Return the user's function that calls, as an nn.Sequential, something else than the known modules."""
    new = False
    while frame is not None and whose(frame.f_code.co_filename) != "user":
        new = new or (frame.f_code is nn.Sequential.forward.__code__ and frame.f_locals["self"] not in modules)
        frame = frame.f_back
    return frame.f_code if frame is not None and new else None


def _members_of(value: Any) -> Iterator[Any]:
    """Iterate over the values in a named tuple, or another object that is neither a module nor PyTorch's."""
    if isinstance(value, _CONTAINERS):
        yield from _values_in(list(value.values() if isinstance(value, dict) else value))
    elif (
        holds_values(value) and not isinstance(value, (nn.Module, type, torch.Tensor, fx.Proxy)) and not callable(value)
    ):
        yield from _values_in([*vars(value).values()])


def _values_in(value: Any, depth: int = 4) -> Iterator[Any]:
    """Iterate over a value or over what it contains, down to some depth, since containers may contain themselves."""
    if type(value) in _CONTAINERS and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _values_in(inner, depth - 1)
    else:
        yield value


def _is_generated(frame: FrameType) -> bool:
    """Return True for code that PyTorch and Python have made themselves, such as a named tuple's."""
    if frame.f_code.co_filename != "<string>":
        return False
    home = str(frame.f_globals.get("__name__"))
    return home.startswith(("namedtuple_", "torch.")) or home in sys.stdlib_module_names - {"__main__"}


def _is_hook(frame: FrameType) -> bool:
    """Return True for the hook of a module."""
    caller = frame.f_back
    if caller is None or caller.f_code.co_filename != nn.Module._call_impl.__code__.co_filename:
        return False
    module = caller.f_locals.get("self")
    forward = getattr(module, "forward", None)
    return frame.f_code is not getattr(forward, "__code__", None)
