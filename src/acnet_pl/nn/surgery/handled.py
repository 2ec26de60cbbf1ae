"""Decide by the functions that handled layers' outputs, or gave layers, whether another call may do something else.

Other paths are traced through functions that a forward calls by name (`functions.reachable`). A value that passes
another one, as in ``table[self.key](y)``, may pass a different one at another call.
"""

from __future__ import annotations

import dis
import operator
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import torch
from torch import nn

from acnet_pl.nn.surgery.bytecode import is_jump, loop_may_end_between, loops_between
from acnet_pl.nn.surgery.choosing import chooses
from acnet_pl.nn.surgery.functions import called_methods, codes, reachable

__all__ = ["Explored", "Handled", "whose"]

_TORCH, _PYTHON, _OWN = Path(torch.__file__).parent, Path(os.__file__).parent, Path(__file__).parents[1]
_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
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
        givers: By layer, the functions that returned the layer itself, alone or among others.
        holding: By layer, the functions that had the layer itself in a variable or in a list, and the variable's name.
        loose: Layers that an nn.Sequential called which the code made on the spot, such as a part of another.
    """

    taken: dict[str, set[CodeType]] = field(default_factory=lambda: defaultdict(set))
    given: dict[str, set[CodeType]] = field(default_factory=lambda: defaultdict(set))
    called: dict[str, set[tuple[CodeType, int]]] = field(default_factory=lambda: defaultdict(set))
    guarded: set[CodeType] = field(default_factory=set)
    entered: set[CodeType] = field(default_factory=set)
    held: dict[str, set[tuple[CodeType, str]]] = field(default_factory=lambda: defaultdict(set))
    named: dict[str, set[tuple[CodeType, str]]] = field(default_factory=lambda: defaultdict(set))
    givers: dict[str, set[CodeType]] = field(default_factory=lambda: defaultdict(set))
    holding: dict[str, set[tuple[CodeType, str]]] = field(default_factory=lambda: defaultdict(set))
    loose: set[str] = field(default_factory=set)

    def may_have_entered(self, function: FunctionType) -> bool:
        """Return False for a function that was not called while calls of its file were recorded."""
        own = function.__code__
        return whose(own.co_filename) != "user" or any(code in self.entered for code in codes(own))

    def update(self, other: Handled) -> None:
        """Add what was recorded elsewhere."""
        self.guarded |= other.guarded
        self.entered |= other.entered
        self.loose |= other.loose
        for name in ("taken", "given", "called", "held", "named", "givers", "holding"):
            for layer, recorded in getattr(other, name).items():
                getattr(self, name)[layer] |= recorded

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
        givers = {code for layer in layers for code in self.givers[layer]}
        if unknown := {code for code in givers - explored.inside if any(map(is_jump, dis.get_instructions(code)))}:
            return f"the other paths of {_first(unknown)} cannot be traced"
        holding = {one for layer in layers for one in self.holding[layer]}
        held = {one for layer in values for one in self.held[layer]} | holding
        named = {one for layer in values for one in self.named[layer]} | holding
        concerned = {code for code, _ in held} | handling | {code for layer in values for code, _ in self.called[layer]}
        choosing = concerned & explored.getting
        attributes = {name.rpartition(".")[2] for name in layers}
        concerned |= givers | calling
        choosing |= {code for code in concerned if chooses(code, _of(code, held), _of(code, named), attributes)}
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


@cache
def whose(file: str) -> str:
    """Tell if code is the "user"'s, what lies "between" a call and the forward that it leads to, or a "library"'s."""
    path = Path(file)
    if file.startswith("<frozen") or any(path.is_relative_to(part) for part in (*_BETWEEN, _OWN)):
        return "between"
    if file.startswith("<eval_with_key") or path.is_relative_to(_TORCH):  # generated from a graph by torch.fx
        return "library"
    return "between" if path.is_relative_to(_PYTHON) and "site-packages" not in path.parts else "user"


def _of(code: CodeType, variables: Iterable[tuple[CodeType, str]]) -> set[str]:
    return {name for own, name in variables if own is code}


def _first(functions: Iterable[CodeType]) -> str:
    return min(map(_place_of, functions))


def _place_of(code: CodeType) -> str:
    name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
    return f"`{name}` ({Path(code.co_filename).name}, line {code.co_firstlineno})"
