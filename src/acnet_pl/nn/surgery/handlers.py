"""Observe which of the user's functions handle the outputs of layers while a network is traced.

Other paths are traced through functions that a forward calls by name (`functions.reachable`). A value that passes
another one, as in ``table[self.key](y)``, may pass a different one at another call.
"""

from __future__ import annotations

import operator
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import fx, nn

from acnet_pl.nn.surgery.bytecode import loop_may_end_between, loops_between
from acnet_pl.nn.surgery.choosing import chooses, slices
from acnet_pl.nn.surgery.copying import holds_values
from acnet_pl.nn.surgery.functions import called_methods, codes, reachable

__all__ = ["Explored", "Handled", "Handlers"]

_TORCH, _PYTHON, _OWN = Path(torch.__file__).parent, Path(os.__file__).parent, Path(__file__).parents[1]
_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
_CONTAINERS = (list, tuple, dict, set)
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_BETWEEN = (_TORCH / "fx", _TORCH / "nn" / "modules" / "module.py", _TORCH / "utils" / "_contextlib.py")


class Explored:
    """The code whose other paths are traced.

    Args:
        examples: A module of each class.

    Attributes:
        inside: All of this code.
        fixed: What of it a value passes whatever the settings are: methods that are called where they are named, and
            comprehensions.
        exchangeable: Functions in attributes.
        getting: Code of modules with an operator.itemgetter or the like in an attribute, which another may replace.
    """

    def __init__(self, examples: Iterable[nn.Module]) -> None:
        self.inside: set[CodeType] = set()
        self.fixed: set[CodeType] = set()
        self.exchangeable: set[CodeType] = set()
        self.getting: set[CodeType] = set()
        for module in examples:
            functions = reachable(module)
            attributes = {id(value) for value in vars(module).values()}
            exchangeable = {one.__code__ for one in functions.values() if id(one) in attributes}
            self.exchangeable |= exchangeable
            self.fixed |= called_methods(functions) - exchangeable
            inside = {code for function in functions.values() for code in codes(function.__code__)}
            self.inside |= inside
            if any(isinstance(value, _GETTERS) for value in vars(module).values()):
                self.getting |= inside
        self.fixed |= {code for code in self.inside if code.co_name in _COMPREHENSIONS}


@dataclass
class Handled:
    """Functions of the user that handled layers' outputs.

    Attributes:
        taken: By layer, the functions that took one of its outputs as an argument.
        given: By layer, the functions that returned one of its outputs.
        called: By layer, the functions that called it, with the offset of the instruction.
        guarded: Functions that used a context manager of the user's, which may catch errors.
        entered: Functions that were called, whatever they handled.
        held: By layer, the functions that had one of its outputs in a list, dict or the like, and the variable's name.
        named: By layer, the functions that had one of its outputs in a variable, and the variable's name.
        loose: Layers that an nn.Sequential called which the code made on the spot, such as a part of another.
    """

    taken: dict[str, set[CodeType]] = field(default_factory=lambda: defaultdict(set))
    given: dict[str, set[CodeType]] = field(default_factory=lambda: defaultdict(set))
    called: dict[str, set[tuple[CodeType, int]]] = field(default_factory=lambda: defaultdict(set))
    guarded: set[CodeType] = field(default_factory=set)
    entered: set[CodeType] = field(default_factory=set)
    held: dict[str, set[tuple[CodeType, str]]] = field(default_factory=lambda: defaultdict(set))
    named: dict[str, set[tuple[CodeType, str]]] = field(default_factory=lambda: defaultdict(set))
    loose: set[str] = field(default_factory=set)

    def may_have_entered(self, function: FunctionType) -> bool:
        """Return False for a function that was not called while calls of its file were recorded."""
        own = function.__code__
        return _whose(own.co_filename) != "user" or any(code in self.entered for code in codes(own))

    def update(self, other: Handled) -> None:
        """Add what was recorded elsewhere."""
        self.guarded |= other.guarded
        self.entered |= other.entered
        self.loose |= other.loose
        for layer in {*other.taken, *other.given, *other.called, *other.held, *other.named}:
            self.held[layer] |= other.held[layer]
            self.named[layer] |= other.named[layer]
            self.taken[layer] |= other.taken[layer]
            self.given[layer] |= other.given[layer]
            self.called[layer] |= other.called[layer]

    def unknown_about(self, values: Iterable[str], layers: Iterable[str], explored: Explored) -> str:
        """Return a function that handles values or calls layers, and whose other paths are not traced, or "".

        Args:
            values: The layers whose outputs the values are.
            layers: The layers that are called.
            explored: The code whose other paths are traced.
        """
        passing = {code for layer in values for code in self.taken[layer] & self.given[layer]}
        handling = {code for layer in values for code in self.taken[layer] | self.given[layer]}
        calling = {code for layer in layers for code, _ in self.called[layer]}
        given_away = {code for layer in values for code in self.taken[layer]} & explored.exchangeable
        if unknown := given_away | (passing - explored.fixed) | ((handling | calling) - explored.inside):
            return f"the other paths of {_first(unknown)} cannot be traced"
        if loose := sorted(self.loose & {*layers}):
            return f"`{loose[0]}` is called by an nn.Sequential that is made on the spot, of which it may be the last"
        if guarded := self.guarded & (handling | calling):
            return f"{_first(guarded)} uses a context manager that may catch errors"
        held = {one for layer in values for one in self.held[layer]}
        named = {one for layer in values for one in self.named[layer]}
        concerned = {code for code, _ in held} | handling | {code for layer in values for code, _ in self.called[layer]}
        choosing = concerned & explored.getting
        choosing |= {code for code in concerned if chooses(code, _of(code, held), _of(code, named))}
        return f"{_first(choosing)} chooses one of several values" if choosing else ""

    def unknown_between(self, first: str, second: str, explored: Explored) -> str:
        """Return what may lie between two layers at another call and is not traced, or "".

        Args:
            first: A layer whose output the other takes.
            second: This other layer.
            explored: The code whose other paths are traced.
        """
        if unknown := self.unknown_about([first], [first, second], explored):
            return unknown
        looping = {code for code in self.taken[first] & self.given[first] if loops_between(code, -1, sys.maxsize)}
        for code, start in self.called[first]:
            for end in (end for other, end in self.called[second] if other is code):
                looping |= {code} if loops_between(code, start, end) else set()
                if start == end and loop_may_end_between(code, start):
                    return f"{_first([code])} calls them in a loop that may end between them"
        return f"{_first(looping)} has a loop between them" if looping else ""


class Handlers:
    """Records which functions handle layers' outputs.

    Args:
        layers_of: Returns the names of the layers whose output a value is, if any.
        modules: Those of the network: an nn.Sequential that is none of them was made on the spot. None is unknown.

    Attributes:
        handled: What was recorded.
    """

    def __init__(self, layers_of: Callable[[Any], Iterable[str]], modules: Collection[nn.Module] | None = None) -> None:
        self.handled = Handled()
        self._modules = modules
        self._layers_of = layers_of

    def note_call(self, layer: str) -> None:
        """Record the function that calls a layer now, unless it is PyTorch's."""
        frame: FrameType | None = sys._getframe(1)
        if self._modules is not None and (maker := _maker_of_sequence(frame, self._modules)) and slices(maker):
            self.handled.loose.add(layer)
        while frame is not None and _whose(frame.f_code.co_filename) == "between":
            frame = frame.f_back
        if frame is not None and _whose(frame.f_code.co_filename) == "user":
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
        if event not in ("call", "return") or _whose(frame.f_code.co_filename) != "user":
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
        for value in _values_in(returned if event == "return" else [*frame.f_locals.values()]):
            for layer in self._layers_of(value):
                (self.handled.given if event == "return" else self.handled.taken)[layer].add(frame.f_code)

    def _note_held(self, frame: FrameType) -> None:
        for name, value in frame.f_locals.items():
            self._note_holding(frame.f_code, name, value)
            for layer in self._layers_of(value):
                self.handled.named[layer].add((frame.f_code, name))

    def _note_holding(self, code: CodeType, name: str, value: Any) -> None:
        for inner in _members_of(value):
            for layer in self._layers_of(inner):
                self.handled.held[layer].add((code, name))


def _maker_of_sequence(frame: FrameType | None, modules: Collection[nn.Module]) -> CodeType | None:
    """Return the user's function that calls, as an nn.Sequential, something else than the known modules."""
    new = False
    while frame is not None and _whose(frame.f_code.co_filename) != "user":
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


def _of(code: CodeType, variables: Iterable[tuple[CodeType, str]]) -> set[str]:
    return {name for own, name in variables if own is code}


def _first(functions: Iterable[CodeType]) -> str:
    return min(map(_place_of, functions))


def _place_of(code: CodeType) -> str:
    name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
    return f"`{name}` ({Path(code.co_filename).name}, line {code.co_firstlineno})"


@cache
def _whose(file: str) -> str:
    """Tell if code is the "user"'s, what lies "between" a call and the forward that it leads to, or a "library"'s."""
    path = Path(file)
    if file.startswith("<frozen") or any(path.is_relative_to(part) for part in (*_BETWEEN, _OWN)):
        return "between"
    if file.startswith("<eval_with_key") or path.is_relative_to(_TORCH):  # generated from a graph by torch.fx
        return "library"
    return "between" if path.is_relative_to(_PYTHON) and "site-packages" not in path.parts else "user"


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
