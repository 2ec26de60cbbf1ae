"""Tell from its bytecode whether a function takes one of several values, which one depending on a value.

``out[self.layer]`` and ``{"raw": y, "norm": z}[mode]`` take another value at another call, without a conditional jump.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Collection, Iterator
from functools import cache
from itertools import takewhile
from types import CodeType

__all__ = ["chooses", "slices"]

_SILENT = ("CACHE", "EXTENDED_ARG", "NOP", "RESUME")
_LITERALS = ("BUILD_LIST", "BUILD_TUPLE", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "LIST_EXTEND", "DICT_UPDATE")
_GETTERS = ("get", "pop", "popitem", "setdefault", "__getitem__")
_ENDS = ("STORE", "POP_TOP", "RETURN")  # of the statement before
_BY_NAME = ("attrgetter", "getattr", "itemgetter")


def chooses(code: CodeType, names: Collection[str], values: Collection[str], attributes: Collection[str] = ()) -> bool:
    """Return True if code takes an element of a container, and a value decides which.

    Args:
        code: A function's code.
        names: Its variables that contain the values in question, with "" for what a call returned. Elements of other
            containers do not count, but of those that the code makes of such values on the spot.
        values: Its variables that are such values.
        attributes: Names of attributes that are such values.
    """
    return _chooses(code, frozenset(names), frozenset(values), frozenset(attributes))


@cache
def slices(code: CodeType) -> bool:
    """Return True if code takes a slice with a bound that is no constant."""
    instructions = _instructions(code)
    return any(
        _is_element(one)
        and not _is_fixed(instructions, at)
        and (one.opname == "BINARY_SLICE" or instructions[at - 1].opname == "BUILD_SLICE")
        for at, one in enumerate(instructions)
    )


def _instructions(code: CodeType) -> list[dis.Instruction]:
    return [each for one in dis.get_instructions(code) if one.opname not in _SILENT for each in _apart(one)]


@cache
def _chooses(code: CodeType, names: frozenset[str], values: frozenset[str], attributes: frozenset[str]) -> bool:
    instructions = _instructions(code)
    called = {one.argval for one in instructions if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    if "locals" in called or (names and {*_BY_NAME} & called):
        return True
    for at, one in enumerate(instructions):
        if _is_element(one) and not _is_fixed(instructions, at):
            container = _container(instructions, at)
            if _concerns(instructions, container, names, values) or _names_one(instructions, container, attributes):
                return True
        elif _loads(one, names) and _gets(instructions[at + 1 :]):
            return True
        elif one.opname in _LITERALS and _gets(instructions[at + 1 :]):
            following = takewhile(lambda other: not other.opname.startswith(_ENDS), instructions[at + 1 :])
            if _names_one(instructions, at, attributes) or any(_is_attribute(other, attributes) for other in following):
                return True
    return False


def _apart(instruction: dis.Instruction) -> Iterator[dis.Instruction]:
    """Iterate over the two instructions for which one may stand from Python 3.13 on."""
    if not isinstance(instruction.argval, tuple) or "_FAST_" not in instruction.opname:
        yield instruction
        return
    for kind, name in zip(re.findall("LOAD|STORE", instruction.opname), instruction.argval, strict=True):
        yield instruction._replace(opname=f"{kind}_FAST", opcode=dis.opmap[f"{kind}_FAST"], arg=0, argval=name)


def _is_element(instruction: dis.Instruction) -> bool:
    subscript = instruction.opname == "BINARY_OP" and instruction.argrepr == "[]"  # from Python 3.14 on
    return subscript or instruction.opname in ("BINARY_SUBSCR", "BINARY_SLICE")


def _is_constant(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("LOAD_CONST", "LOAD_SMALL_INT")


def _is_fixed(instructions: list[dis.Instruction], at: int) -> bool:
    """Return True if a constant is the index, or constants are the bounds, of the element that an instruction takes."""
    before = instructions[max(at - 4, 0) : at]
    if instructions[at].is_jump_target:  # another value may be the index
        return False
    if instructions[at].opname == "BINARY_SLICE":
        return all(map(_is_constant, before[-2:]))
    if before and before[-1].opname == "BUILD_SLICE":
        return all(map(_is_constant, before[-1 - (before[-1].arg or 2) : -1]))
    if before and before[-1].opname == "UNARY_NEGATIVE":
        return all(map(_is_constant, before[-2:-1]))
    return bool(before) and _is_constant(before[-1])


def _container(instructions: list[dis.Instruction], at: int) -> int | None:
    """Return the index of the instruction that made the container of an element, or None if that is unsure."""
    above = 2 if instructions[at].opname == "BINARY_SLICE" else 1  # values on the stack above the container
    for index in range(at - 1, -1, -1):
        one = instructions[index]
        if "JUMP" in one.opname or one.opname == "FOR_ITER":
            return None
        if above == 0:
            return index
        above -= dis.stack_effect(one.opcode, one.arg, jump=False)
        if above < 0:
            return index
    return None


def _concerns(
    instructions: list[dis.Instruction], container: int | None, names: frozenset[str], values: frozenset[str]
) -> bool:
    """Return True if a container may hold one of the values."""
    if container is None:
        return bool(names)
    maker = instructions[container]
    if maker.opname.startswith("LOAD"):
        return _loads(maker, names)
    own = list(takewhile(lambda one: not one.opname.startswith(_ENDS), reversed(instructions[:container])))
    literal = maker.opname in _LITERALS and any("CALL" in one.opname for one in own)
    return (bool(names) and maker.opname not in _LITERALS) or literal or any(_loads(one, values) for one in own)


def _names_one(instructions: list[dis.Instruction], container: int | None, attributes: frozenset[str]) -> bool:
    """Return True if a container is made on the spot and one of the attributes is in it."""
    if container is None or instructions[container].opname not in _LITERALS:
        return False
    own = takewhile(lambda one: not one.opname.startswith(_ENDS), reversed(instructions[:container]))
    return any(_is_attribute(one, attributes) for one in own)


def _is_attribute(instruction: dis.Instruction, attributes: frozenset[str]) -> bool:
    return instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval in attributes


def _loads(instruction: dis.Instruction, names: frozenset[str]) -> bool:
    return instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and instruction.argval in names


def _gets(following: list[dis.Instruction]) -> bool:
    """Return True if instructions call a method that takes an element, which a value chooses."""
    if not following or following[0].opname not in ("LOAD_ATTR", "LOAD_METHOD") or following[0].argval not in _GETTERS:
        return False
    return not all(map(_is_constant, takewhile(lambda one: "CALL" not in one.opname, following[1:])))
