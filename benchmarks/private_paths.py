"""Remove the paths of a machine from a record before it is published."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_OWN = ("experiments", "results")
_START = r"""(?<![\w.:/\\~])(?:
    [Ff][Ii][Ll][Ee]:[/\\]+ | [A-Za-z]:[/\\](?!/) | \\\\+(?=\w) | ~[\w.-]*[/\\] | \.\.?[/\\] | /(?![/\s])
)"""
_IS_PATH = re.compile(_START, re.VERBOSE)
_QUOTED = re.compile(rf"""(?P<quote>["'])(?P<path>{_START}.*?)(?P=quote)""", re.VERBOSE | re.DOTALL)
_IN_TEXT = re.compile(rf"{_START}(?:[^\n→]*[/\\])?[^,;\n→\"')\]}}]*(?<!\s)", re.VERBOSE)
_OPTION = re.compile(r"--?[\w.-]+")
_OF_PATHS = re.compile(r"(root|dir|path|file|folder|config|records|out|output|checkpoint|ckpt)s?$")
_RUNS = (
    re.compile(r"(?:.*/)?(runs/[^/]+/\d[^/]*(?:/.*)?)"),
    re.compile(r"(?:.*/)?([^/]+/\d{4}-\d\d-\d\dT[\d-]+(?:/.*)?)"),  # in a folder of another name than runs/
)
_PROGRAM = re.compile(r"__main__\.py|python[\d.]*(\.exe)?|acnet[_-]pl(\.exe)?")


def without_paths(value: Any, name: str = "") -> Any:
    """Return a record with paths outside the package's experiments/ and results/ replaced by DIR.

    The folder of a run keeps its last parts, ``runs/NAME/TIME``.

    Args:
        value: The record, or a part of it.
        name: The key that has this part.
    """
    if isinstance(value, dict):
        return {key: without_paths(one, key) for key, one in value.items()}
    if isinstance(value, list):
        is_command = name == "command" and all(isinstance(one, str) for one in value)
        return _command(value) if is_command else [without_paths(one, name) for one in value]
    if not isinstance(value, str):
        return value
    if name == "command":
        return _command_line(value)
    if _IS_PATH.match(value) or (name in ("folder", "path", "checkpoint") and re.search(r"[/\\]", value)):
        return _place(value, keeps_run=True)
    return _text(value)


def _command_line(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        return _text(line)
    return line if (new := _command(words)) == words else shlex.join(new)


def _command(words: Sequence[str]) -> list[str]:
    """Return the arguments of a command without paths."""
    new, option = [], ""
    for word in words:
        key, equals, value = word.partition("=")
        if equals and _OPTION.fullmatch(key):
            new.append(f"{key}={_argument(value, key)}")
            option = ""
        elif _OPTION.fullmatch(word):
            new.append(word)
            option = word
        else:
            new.append(_argument(word, option))
    return new


def _argument(value: str, option: str) -> str:
    """Return the value of an option, or an argument without one, DIR if it is a path."""
    if re.match(r"https?://", value):
        return value
    is_path = _IS_PATH.match(value) or re.match(r"\w+://", value) or value == "~" or "\\" in value
    # A relative path and a metric's name, such as val/top1, look alike: the option tells.
    is_relative = "/" in value and value[0] not in "[{\"'" and (not option or _OF_PATHS.search(option.casefold()))
    return _place(value) if is_path or is_relative else _text(value)


def _text(text: str) -> str:
    """Return prose or JSON with the paths in it replaced."""
    quoted = _QUOTED.sub(lambda match: f"{match['quote']}{_place(match['path'])}{match['quote']}", text)
    return _IN_TEXT.sub(lambda match: _place(match[0]), quoted)


def _place(path: str, keeps_run: bool = False) -> str:
    """Return what a path is called in a published record."""
    parts = re.split(r"[/\\]+", path)
    if _PROGRAM.fullmatch(parts[-1]):
        return parts[-1]
    is_own = parts[0] in _OWN or (parts[0] in ("benchmarks", "tests") and (ROOT / path).is_file())
    if is_own and ".." not in parts:
        return path
    for folder in _OWN:
        if folder in parts:
            last = len(parts) - 1 - parts[::-1].index(folder)
            own = "/".join(parts[last:])
            if last + 1 < len(parts) and ".." not in parts[last:] and (ROOT / own).exists():
                return own
    found = [match[1] for run in _RUNS if (match := run.fullmatch("/".join(parts)))]
    return found[0] if found and keeps_run else "DIR"
