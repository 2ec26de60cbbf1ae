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
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from enum import Enum
from io import StringIO
from itertools import combinations, pairwise
from types import CellType, CodeType, FunctionType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from acnet_pl.nn.surgery.functions import Key, codes, is_filled, is_users, names_in, reachable, strings_in
from acnet_pl.nn.surgery.trace import is_layer

__all__ = ["Variation", "deciding_kinds", "other_values", "unforeseen", "variations"]

Site = tuple[Key, tuple[int, ...], int]
"""A conditional jump: key of the function, indices into nested constants, offset of the instruction."""

_OF_THE_SAME = ("CACHE", "IS_OP", "NOP", "TO_BOOL")
"""Instructions allowed between the load of an attribute and a jump that compares it with None."""

_FAR = 6
"""Number of conditions in a row of which two are inverted together; for three together it is half as many."""

_TWINS = {"TRUE": "FALSE", "FALSE": "TRUE", "NOT_NONE": "NONE", "NONE": "NOT_NONE"}


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
            values = other_values(members.get(self.attribute), strings_in(module, self.functions.values()))
            changed = {self.attribute: values[self.turn]} if self.turn < len(values) else {}
        spaces: dict[int, dict[str, Any]] = {}
        for (depth, name), function in _copies(self.functions, self.sites).items():
            if depth == 0 and name in members:
                changed[name] = function
            else:
                spaces.setdefault(depth, {})[name] = function
        # `super()` finds its methods in classes that are inserted between the class and its parents.
        between = [_subclass((kind.__mro__[d],), space) for d, space in sorted(spaces.items()) if d]
        before = {name: members[name] for name in changed}
        if spaces:
            module.__class__ = _subclass((kind, *between), spaces.get(0, {}))
        members.update(changed)
        try:
            with redirect_stdout(StringIO()):  # a path that the network does not take prints nothing
                yield
        finally:
            module.__class__ = kind
            members.update(before)


def _subclass(bases: tuple[type, ...], space: dict[str, Any]) -> type:
    """Return a subclass of which no registry learns."""
    with ExitStack() as stack:
        for base in bases:
            stack.enter_context(patch.object(base, "__init_subclass__", classmethod(lambda cls, **_: None)))
        made: type = type.__new__(type(bases[0]), bases[0].__name__, bases, space)
    return made


def variations(module: nn.Module, network: nn.Module, fixed: Collection[str] = ()) -> Iterator[Variation]:
    """Iterate over the other paths of a module's code: each decision inverted alone, and two or three together.

    Conditions on the existence of a submodule (``self.downsample is None``) are left out: calls do not change it.

    Args:
        module: A module of the class.
        network: The network that contains it. Other modules of the class in it show which submodules may exist.
        fixed: Names of attributes that keep their values.
    """
    kind, functions = type(module), reachable(module)
    submodules = {name for other in network.modules() if type(other) is kind for name in other._modules}
    sites = [
        site for key, function in functions.items() for site in _sites(key, function.__code__, {*submodules, *fixed})
    ]
    for chosen in _together(sites):
        key, path, offset = chosen[-1]
        line = _line(_nested(functions[key].__code__, path), offset)
        yield Variation(kind, f"`{functions[key].__qualname__}` decides in line {line}", chosen, functions=functions)
    strings = strings_in(module, functions.values())
    for name in sorted(names_in(module) & vars(module).keys() - set(fixed)):
        for turn in range(len(other_values(vars(module)[name], strings))):
            yield Variation(kind, f"it depends on the attribute `{name}`", (), name, turn, functions)


def _together(sites: list[Site]) -> Iterator[tuple[Site, ...]]:
    """Iterate over jumps to invert together: up to three of few jumps, and of many those that are close."""
    for count in (1, 2, 3):
        for chosen in combinations(range(len(sites)), count):
            if chosen[-1] - chosen[0] < (_FAR if count < 3 else _FAR // 2):
                yield tuple(sites[index] for index in chosen)


def unforeseen(module: nn.Module) -> str:
    """Return where a module's code may take a path that `variations` does not find, or ""."""
    for function in reachable(module).values():
        for code in codes(function.__code__):
            where = f"`{function.__qualname__}`"
            if caught := _catches(code):
                return f"{where} catches errors in line {_line(code, caught[0])}"
            loops = _loops(code)
            for one in dis.get_instructions(code):
                if _twin(one.opname) and any(first <= one.offset <= last for first, last in loops):
                    return f"{where} decides in line {_line(code, one.offset)}, in a `while` loop"
    return ""


def other_values(value: Any, strings: list[str]) -> list[Any]:
    """List other values that a plain attribute or argument, or one value in a container of them, might have."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, str):
        return [string for string in strings if string != value]
    if type(value) in (list, tuple) and not value:
        return [type(value)([object()])]  # of which nothing is known: using it is an error
    if type(value) in (list, tuple):
        return [other for other in (value[::-1], value[1:], value[:-1]) if other and other != value]
    if type(value) is dict:
        return [{**value, key: other} for key, one in value.items() for other in other_values(one, strings)][:10]
    if isinstance(value, Enum):
        return [member for member in type(value) if member is not value][:10]
    if isinstance(value, SimpleNamespace) or (hasattr(value, "__dict__") and _is_settings(value)):
        known = {name: strings if one is None else other_values(one, strings) for name, one in vars(value).items()}
        changes = [(name, other) for name, others in known.items() for other in others]
        return [_changed(value, name, other) for name, other in changes[:10]]
    return []


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


def _nested(code: CodeType, path: tuple[int, ...]) -> CodeType:
    for index in path:
        code = code.co_consts[index]
    return code


def _sites(key: Key, code: CodeType, submodules: Collection[str], path: tuple[int, ...] = ()) -> Iterator[Site]:
    """Iterate over the conditional jumps, including nested functions', that do not loop endlessly if inverted."""
    loops = _loops(code)
    asked: Any = None  # the attribute that the jump tests
    for instruction in dis.get_instructions(code):
        offset = instruction.offset
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            asked = instruction.argval
        elif _twin(instruction.opname):
            if asked not in submodules and not any(first <= offset <= last for first, last in loops):
                yield key, path, offset
            asked = None
        elif instruction.opname not in _OF_THE_SAME and instruction.argval is not None:
            asked = None
    for index, constant in enumerate(code.co_consts):
        if isinstance(constant, CodeType):
            yield from _sites(key, constant, submodules, (*path, index))


def _loops(code: CodeType) -> list[tuple[int, int]]:
    """Return the offsets of the first and last instruction of each ``while`` loop."""
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(code)}
    return [
        (instruction.argval, offset)
        for offset, instruction in instructions.items()
        if "JUMP" in instruction.opname
        and isinstance(instruction.argval, int)
        and instruction.argval < offset
        and instructions[instruction.argval].opname != "FOR_ITER"
    ]


def _catches(code: CodeType) -> list[int]:
    """Return the offsets of each ``except``, with a class or without, and of contextlib's ``suppress``."""
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(code)}
    handlers = [one.argval for one in instructions.values() if one.opname == "SETUP_FINALLY"]  # of Python 3.10
    handlers += [next_ for one, next_ in pairwise(instructions) if instructions[one].opname == "PUSH_EXC_INFO"]
    bare = [offset for offset in handlers if instructions[offset].opname == "POP_TOP"]
    named = [
        one.offset for one in instructions.values() if one.opname.endswith("EXC_MATCH") or one.argval == "suppress"
    ]
    return sorted([*bare, *named])


def _line(code: CodeType, offset: int) -> int:
    return max((line for start, line in dis.findlinestarts(code) if start <= offset and line), default=0)


def _twin(name: str) -> str:
    """Return the name of the opposite conditional jump, or "" for any other instruction."""
    head, found, condition = name.partition("IF_")
    end = "_OR_POP" if condition.endswith("_OR_POP") else ""
    twin = _TWINS.get(condition.removesuffix("_OR_POP"), "")
    return f"{head}IF_{twin}{end}" if found and "JUMP" in head and twin else ""


def _copies(functions: Mapping[Key, FunctionType], sites: tuple[Site, ...]) -> dict[Key, FunctionType]:
    """Copy the methods and attributes among functions, with jumps inverted in them or in the globals they call."""
    spaces: dict[int, dict[str, Any]] = {}
    made: dict[Key, FunctionType] = {}
    helped = any(depth < 0 for (depth, _), _, _ in sites)  # then all of them must use the changed global function
    for key in functions if helped else {key for key, _, _ in sites}:
        function, code = functions[key], functions[key].__code__
        for _, path, offset in (site for site in sites if site[0] == key):
            code = _inverted(code, path, offset)
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


def _inverted(code: CodeType, path: tuple[int, ...], offset: int) -> CodeType:
    if path:
        constants = list(code.co_consts)
        constants[path[0]] = _inverted(constants[path[0]], path[1:], offset)
        return code.replace(co_consts=tuple(constants))
    changed = bytearray(code.co_code)
    changed[offset] = dis.opmap[_twin(dis.opname[changed[offset]])]
    return code.replace(co_code=bytes(changed))
