"""Turn a parser's error into one message, with options named as they were typed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import NoReturn

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.names import did_you_mean, nearest
from acnet_pl.config.program import program
from acnet_pl.config.trainer_classes import TRAINER_CLASSES, no_such_class
from acnet_pl.integrations import INSTALL

__all__ = ["RUNNING", "ReadableErrors", "show_mistake"]

RUNNING: ContextVar[str] = ContextVar("command", default="")
"""The command that runs."""

# Lines of jsonargparse's errors that add nothing to the expected type.
_NOISE = re.compile(r"Does not validate against any|Subtypes:|^\s*Errors:|Given value type|Namespace\(")
_EXPECTED = re.compile(r"^(?:- )?Expected (?:an? )?(.+?)(?:\. Got value: (.*))?$")
_TYPES = {"int": "an int", "float": "a float", "bool": "true or false", "NoneType": "null", "str": "text"}
_TYPES |= {"list": "a list", "dict": "names and values", "tuple": "a list"}


def show_mistake(message: str, command: str) -> None:
    """Print a mistake on the command line, and where its options are explained."""
    words = " ".join(filter(None, ("acnet_pl", command)))
    print(f"{words}: error: {message}", file=sys.stderr)
    print(f"See `{' '.join(filter(None, (program(), command)))} --help`.", file=sys.stderr)


class ReadableErrors:
    """Parser, of argparse or jsonargparse, whose errors are one message without usage."""

    prog: str

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit with 2."""
        if os.environ.get("ACNET_PL_DEBUG") and ex is not None:
            raise ex
        known = [option for action in getattr(self, "_actions", ()) for option in action.option_strings]
        # The parser of a class, or the one above the commands, does not know which command runs.
        show_mistake(readable(message, known), RUNNING.get() or self.prog.rpartition(" ")[2])
        raise SystemExit(2)


def readable(message: str, known: Sequence[str] = ()) -> str:
    """Return a parser's error as one message.

    Args:
        message: The parser's.
        known: Options that exist, of which the nearest is named.
    """
    text = re.sub(r"(?:Parser key|argument) \"?([\w.]+?)\"?:", r"--\1:", message).strip()
    if found := re.fullmatch(r"unrecognized arguments?: (.*)", text, re.DOTALL):
        arguments = Arguments(["", *found[1].split()])
        if not arguments.options:
            return f"{found[1]}: the command takes no further file or word; options begin with --"
        typed = arguments.options[0].typed
        return f"{typed}: there is no such option{did_you_mean(nearest(typed, known))}"
    if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", text, re.DOTALL):
        choices = found[2].replace("'", "").split(", ")
        return f"{found[1]!r} is none of {', '.join(choices)}{did_you_mean(nearest(found[1], choices))}"
    if found := re.search(r"--([\w.]+)\b.*? path string: (\w[\w.]*)", text, re.DOTALL):
        option = re.sub(r"^(fit|validate|test|predict)\.", "", found[1])
        if option in TRAINER_CLASSES:
            return no_such_class(option, found[2])
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    return "\n  ".join(dict.fromkeys(_merged(lines))) + _install(text)


def _merged(lines: Iterable[str]) -> list[str]:
    """Merge the lines about expected types and the given value into one sentence."""
    kept: list[str] = []
    expected: list[str] = []
    got = ""
    for line in lines:
        if found := _EXPECTED.match(line):
            expected.append(_type(found[1]))
            got = found[2] or got
        elif line.startswith("Given value: "):
            got = line.removeprefix("Given value: ")
        else:
            kept.append(line)
    if expected:
        sentence = f"expected {' or '.join(dict.fromkeys(expected))}{f', got {got}' if got else ''}"
        kept[:1] = [f"{kept[0]} {sentence}" if kept else sentence]
    return kept


def _type(text: str) -> str:
    """Describe a type in words."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("typing.", "")
    if found := re.fullmatch(r"Literal\[(.*)\]", text):
        return f"one of {found[1]}".replace("'", "")
    return _TYPES.get(text, text)


def _install(text: str) -> str:
    return "".join(f"\n  To use {name}: {how}" for name, how in INSTALL.items() if f"No module named '{name}'" in text)
