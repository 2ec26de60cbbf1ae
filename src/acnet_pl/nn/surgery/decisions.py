"""Find other paths that a forward may take at another call: conditions, attributes and optional arguments.

A trace shows one path through a network's Python code. To find the others, every conditional jump of a forward, and of
the functions it calls, is inverted in a copy of its bytecode, whatever the condition depends on (an argument, an
attribute, a global, a random number). Plain attributes and arguments get other values. Only copies of the user's
modules run the changed code. What cannot be found so, `unforeseen` tells: conditions in a ``while`` loop, which might
never end, and errors that the code catches.
"""

from __future__ import annotations

import copy
import dis
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from itertools import combinations
from types import CellType, FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from acnet_pl.nn.surgery.bytecode import Site, catches, inverted, is_jump, line_of, nested, sites_in, while_loops
from acnet_pl.nn.surgery.functions import (
    Key,
    codes,
    in_place_of,
    is_cached,
    is_filled,
    is_users,
    names_in,
    reachable,
    strings_in,
)
from acnet_pl.nn.surgery.trace import is_layer

__all__ = ["Variation", "deciding_kinds", "other_values", "unforeseen", "variations"]

_NEAR = 3
"""Number of conditions in a row of which two or three are inverted together."""


@dataclass(frozen=True)
class Variation:
    """One other path that the code of a class of modules may take.

    Attributes:
        kind: The class.
        what: The place of the decision, for messages.
        sites: The jumps to invert, if any.
        attribute: The name of an attribute to change to its ``turn``-th other value, if any.
    """

    kind: type[nn.Module]
    what: str
    sites: tuple[Site, ...] = ()
    attribute: str = ""
    turn: int = 0
    functions: Mapping[Key, FunctionType] = field(default_factory=dict, compare=False, repr=False)

    @contextmanager
    def taken_by(self, module: nn.Module) -> Iterator[None]:
        """Make a module of the class take this path within the context."""
        kind, members = type(module), vars(module)
        changed = {}
        if self.attribute:
            values = other_values(_settable(module).get(self.attribute), strings_in(module, self.functions.values()))
            changed = {self.attribute: values[self.turn]} if self.turn < len(values) else {}
        spaces: dict[int, dict[str, Any]] = {}
        for (depth, name), function in _copies(self.functions, self.sites).items():
            if depth == 0 and name in members:
                changed[name] = function
            else:
                spaces.setdefault(depth, {})[name] = in_place_of(function, vars(kind.__mro__[depth])[name])
        # `super()` finds its methods in classes that are inserted between the class and its parents.
        between = [_subclass((kind.__mro__[d],), space) for d, space in sorted(spaces.items()) if d]
        before = {name: members[name] for name in changed if name in members}
        if spaces:
            module.__class__ = _subclass((kind, *between), spaces.get(0, {}))
        members.update(changed)
        try:
            with redirect_stdout(StringIO()):  # a path that the network does not take prints nothing
                yield
        finally:
            module.__class__ = kind
            members.update(before)
            for name in changed.keys() - before.keys():
                del members[name]


def _subclass(bases: tuple[type, ...], space: dict[str, Any]) -> type:
    """Return a subclass of which no registry learns."""
    with ExitStack() as stack:
        for base in bases:
            stack.enter_context(patch.object(base, "__init_subclass__", classmethod(lambda cls, **_: None)))
        made: type = type.__new__(type(bases[0]), bases[0].__name__, bases, space)
    return made


def variations(
    module: nn.Module,
    network: nn.Module,
    fixed: Collection[str] = (),
    entered: Callable[[FunctionType], bool] = lambda _: True,
) -> Iterator[Variation]:
    """Iterate over the other paths of a module's code: each decision inverted alone, and two or three together.

    Conditions on the existence of a submodule (``self.downsample is None``) are left out: calls do not change it.
    So are those of functions alone that the path as it is does not enter.

    Args:
        module: A module of the class.
        network: The network that contains it. Other modules of the class in it show which submodules may exist.
        fixed: Names of attributes that keep their values.
        entered: Returns whether the path as it is may enter a function.
    """
    kind, functions = type(module), reachable(module)
    submodules = {name for other in network.modules() if type(other) is kind for name in other._modules}
    sites = [
        site for key, function in functions.items() for site in sites_in(key, function.__code__, {*submodules, *fixed})
    ]
    taken = {key for key, function in functions.items() if entered(function) or is_cached(kind, key)}
    for chosen in _together(sites):
        if not any(key in taken for key, _, _ in chosen):
            continue
        key, path, offset = chosen[-1]
        place = line_of(nested(functions[key].__code__, path), offset)
        yield Variation(kind, f"`{functions[key].__qualname__}` decides in {place}", chosen, functions=functions)
    strings = strings_in(module, functions.values())
    for name in sorted(names_in(module) & _settable(module).keys() - set(fixed)):
        for turn in range(len(other_values(_settable(module)[name], strings))):  # a trace restores it by a copy
            yield Variation(kind, f"it depends on the attribute `{name}`", (), name, turn, functions)


def _settable(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module and those of its class, except what PyTorch's classes and descriptors give."""
    kinds = [kind for kind in reversed(type(module).__mro__) if is_users(kind)]
    own = {name: value for kind in kinds for name, value in vars(kind).items() if not hasattr(type(value), "__get__")}
    return {**own, **vars(module)}


def _together(sites: list[Site]) -> Iterator[tuple[Site, ...]]:
    """Iterate over jumps to invert together: up to three that follow each other."""
    for count in (1, 2, 3):
        for chosen in combinations(range(len(sites)), count):
            if chosen[-1] - chosen[0] < _NEAR:
                yield tuple(sites[index] for index in chosen)


def unforeseen(module: nn.Module) -> str:
    """Return where a module's code may take a path that `variations` does not find, or ""."""
    for function in reachable(module).values():
        for code in codes(function.__code__):
            where = f"`{function.__qualname__}`"
            if caught := catches(code):
                return f"{where} catches errors in {line_of(code, caught[0])}"
            loops = while_loops(code)
            for one in dis.get_instructions(code):
                if is_jump(one) and any(first <= one.offset <= last for first, last in loops):
                    return f"{where} decides in {line_of(code, one.offset)}, in a `while` loop"
    return ""


def other_values(value: Any, strings: list[str]) -> list[Any]:
    """List other values that a plain attribute or argument, or one value in a container of them, might have."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [other for other in (0.0, 1.0) if other != value]
    if isinstance(value, str):
        return [*(string for string in strings if string != value), *_parted(value)]
    if type(value) in (list, tuple) and not value:
        return [type(value)([object()])]  # of which nothing is known: using it is an error
    if type(value) in (list, tuple):
        own = [*map(id, value)]  # tensors and arrays have no one answer to ==
        shifted = [other for other in (value[::-1], value[1:], value[:-1]) if other and [*map(id, other)] != own]
        words = [(at, word) for at, one in enumerate(value) if isinstance(one, str) for word in strings if word != one]
        switches = [(at, 1 - one) for at, one in enumerate(value) if type(one) in (bool, int) and one in (0, 1)]
        replaced = [*words[:10], *switches[:10]]
        return [*shifted, *(type(value)([*value[:at], other, *value[at + 1 :]]) for at, other in replaced)]
    if type(value) is dict:
        return [{**value, key: other} for key, one in value.items() for other in other_values(one, strings)][:10]
    if isinstance(value, Enum):
        return [member for member in type(value) if member is not value][:10]
    if isinstance(value, SimpleNamespace) or (hasattr(value, "__dict__") and _is_settings(value)):
        known = {name: strings if one is None else other_values(one, strings) for name, one in vars(value).items()}
        changes = [(name, other) for name, others in known.items() for other in others]
        return [_changed(value, name, other) for name, other in changes[:10]]
    return []


def _parted(value: str) -> list[str]:
    """List a string of several words with one word left out, and with their order reversed."""
    separator = next((each for each in "-,;/|+ " if each in value.strip(each)), "")
    words = value.split(separator) if separator else []
    fewer = [words[:at] + words[at + 1 :] for at in range(len(words))]
    return [separator.join(each) for each in (words[::-1], *fewer) if words][:10]


def _is_settings(value: Any) -> bool:
    return not isinstance(value, (nn.Module, type, FunctionType, Tensor)) and is_users(type(value))


def _changed(value: Any, name: str, other: Any) -> Any:
    changed = copy.copy(value)
    vars(changed)[name] = other
    return changed


def deciding_kinds(model: nn.Module, pairs: Collection[tuple[str, str]] | None = None) -> set[type[nn.Module]]:
    """Return the classes, other than PyTorch's, whose code may decide how pairs of layers are connected.

    These are the classes of the modules between the layers of a pair, and classes whose code contains a layer's name.
    ``pairs=None`` means any modules.
    """
    modules = {name: module for name, module in model.named_modules() if not is_layer(module)}
    if pairs is None:
        return {type(module) for module in modules.values() if is_users(type(module))}
    kinds: set[type[nn.Module]] = set()
    for layer, other in [*pairs, *((second, first) for first, second in pairs)]:
        while layer:
            layer = layer.rpartition(".")[0]
            if is_users(type(modules[layer])):
                kinds.add(type(modules[layer]))
                if not layer or other.startswith(f"{layer}."):
                    break
    words = {name: [part for part in name.split(".") if not part.isdigit()] for pair in pairs for name in pair}
    called = {parts[-1] for parts in words.values() if parts}
    for module in modules.values():
        if is_users(type(module)) and type(module) not in kinds and names_in(module) & called:
            kinds.add(type(module))
    return kinds


def _copies(functions: Mapping[Key, FunctionType], sites: tuple[Site, ...]) -> dict[Key, FunctionType]:
    """Copy the methods and attributes among functions, with jumps inverted in them or in the globals they call."""
    spaces: dict[int, dict[str, Any]] = {}
    made: dict[Key, FunctionType] = {}
    helped = any(depth < 0 for (depth, _), _, _ in sites)  # then all of them must use the changed global function
    for key in functions if helped else {key for key, _, _ in sites}:
        function, code = functions[key], functions[key].__code__
        for _, path, offset in (site for site in sites if site[0] == key):
            code = inverted(code, path, offset)
        space = function.__globals__
        if helped:
            space = spaces.setdefault(id(space), dict(space))
        cells = tuple(_own_cell(cell, functions) for cell in function.__closure__ or ()) if helped else None
        copied = FunctionType(code, space, function.__name__, function.__defaults__, cells or function.__closure__)
        copied.__kwdefaults__ = function.__kwdefaults__
        vars(copied).update(vars(function))
        made[key] = copied
    copies = {id(functions[key]): copied for key, copied in made.items()}
    for copied in made.values() if helped else ():
        if (wrapped := vars(copied).get("__wrapped__")) is not None:
            vars(copied)["__wrapped__"] = copies.get(id(wrapped), wrapped)
        for cell in copied.__closure__ or ():
            if is_filled(cell) and id(cell.cell_contents) in copies:
                cell.cell_contents = copies[id(cell.cell_contents)]
    for (depth, name), copied in made.items():
        for space in spaces.values() if depth < 0 else ():
            if space.get(name) is functions[depth, name]:
                space[name] = copied
    return {key: copied for key, copied in made.items() if key[0] >= 0}


def _own_cell(cell: CellType, functions: Mapping[Key, FunctionType]) -> CellType:
    """Return a new cell for a function that is copied too, and the cell itself for all else."""
    replaced = is_filled(cell) and any(cell.cell_contents is function for function in functions.values())
    return CellType(cell.cell_contents) if replaced else cell
