"""Read and change the bytecode of a function: its conditions, loops and handlers of errors."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from types import CodeType
from typing import Any

from acnet_pl.nn.surgery.functions import Key

__all__ = [
    "Site",
    "catches",
    "inverted",
    "is_jump",
    "line_of",
    "loop_may_end_between",
    "loops_between",
    "nested",
    "sites_in",
    "while_loops",
]

Site = tuple[Key, tuple[int, ...], int]
"""A conditional jump: key of the function, indices into nested constants, offset of the instruction."""

_OF_THE_SAME = ("CACHE", "IS_OP", "NOP", "TO_BOOL")
"""Instructions allowed between the load of an attribute and a jump that compares it with None."""

_TWINS = {"TRUE": "FALSE", "FALSE": "TRUE", "NOT_NONE": "NONE", "NONE": "NOT_NONE"}

_PARTS = ("islice", "takewhile", "range", "zip")


def nested(code: CodeType, path: tuple[int, ...]) -> CodeType:
    """Return the code object that indices into nested constants lead to."""
    for index in path:
        code = code.co_consts[index]
    return code


def sites_in(key: Key, code: CodeType, submodules: Collection[str], path: tuple[int, ...] = ()) -> Iterator[Site]:
    """Iterate over the conditional jumps, including nested functions', that do not loop endlessly if inverted."""
    loops = while_loops(code)
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
            yield from sites_in(key, constant, submodules, (*path, index))


def inverted(code: CodeType, path: tuple[int, ...], offset: int) -> CodeType:
    """Return code whose jump at an offset, in the code that ``path`` leads to, is taken on the opposite condition."""
    if path:
        constants = list(code.co_consts)
        constants[path[0]] = inverted(constants[path[0]], path[1:], offset)
        return code.replace(co_consts=tuple(constants))
    changed = bytearray(code.co_code)
    changed[offset] = dis.opmap[_twin(dis.opname[changed[offset]])]
    return code.replace(co_code=bytes(changed))


def is_jump(instruction: dis.Instruction) -> bool:
    """Return True for a conditional jump."""
    return bool(_twin(instruction.opname))


def _twin(name: str) -> str:
    """Return the name of the opposite conditional jump, or "" for any other instruction."""
    head, found, condition = name.partition("IF_")
    end = "_OR_POP" if condition.endswith("_OR_POP") else ""
    twin = _TWINS.get(condition.removesuffix("_OR_POP"), "")
    return f"{head}IF_{twin}{end}" if found and "JUMP" in head and twin else ""


def while_loops(code: CodeType) -> list[tuple[int, int]]:
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


def catches(code: CodeType) -> list[int]:
    """Return the offsets of each ``except``, with a class or without, and of contextlib's ``suppress``."""
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(code)}
    handlers = [one.argval for one in instructions.values() if one.opname == "SETUP_FINALLY"]  # of Python 3.10
    handlers += [next_ for one, next_ in pairwise(instructions) if instructions[one].opname == "PUSH_EXC_INFO"]
    bare = [offset for offset in handlers if instructions[offset].opname == "POP_TOP"]
    named = [
        one.offset for one in instructions.values() if one.opname.endswith("EXC_MATCH") or one.argval == "suppress"
    ]
    return sorted([*bare, *named])


def loops_between(code: CodeType, start: int, end: int) -> bool:
    """Return True if a ``for`` loop begins between two offsets."""
    return any(one.opname == "FOR_ITER" and start < one.offset < end for one in dis.get_instructions(code))


def loop_may_end_between(code: CodeType, offset: int) -> bool:
    """Return True if the loop around a call may be left or entered at any turn, or is over a part or indices."""
    instructions = [*dis.get_instructions(code)]
    around = [(one.offset, one.argval) for one in instructions if one.opname == "FOR_ITER"]
    around = [(start, end) for start, end in around if start < offset < end]
    if not around:
        return False
    start, end = around[-1]
    backwards = [one for one in reversed(instructions) if one.offset < start]
    before = [*takewhile(lambda one: not one.opname.startswith(("STORE", "POP_TOP", "RESUME")), backwards)]
    of_local = any(one.opname.startswith("LOAD_FAST") and one.argval != code.co_varnames[0] for one in before)
    inside = [one for one in instructions if start < one.offset < end]
    return (
        any("SLICE" in one.opname or one.argval in _PARTS for one in (instructions if of_local else before))
        or any(one.opname.startswith("RETURN") for one in inside)
        or any("JUMP" in one.opname and not start <= one.argval < end for one in inside)
        or any(is_jump(one) or one.opname == "BINARY_SUBSCR" for one in inside if one.offset < offset)
    )


def line_of(code: CodeType, offset: int) -> str:
    """Return the line of an instruction and the name of its file, for messages."""
    line = max((line for start, line in dis.findlinestarts(code) if start <= offset and line), default=0)
    return f"line {line} of {Path(code.co_filename).name}"
