"""Turn a user's mistakes into one readable message and an exit code, and leave bugs their traceback."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser

from acnet_pl.integrations import INSTALL

__all__ = ["Outcome", "Parser", "readable_errors"]


# What jsonargparse says about how it looked for a value, where what it expected is enough.
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|^\s*Errors:|Given value type|Expected a path but|<class 'NoneType'>"
)


@dataclass
class Outcome:
    """Exit code of a command."""

    code: int = 0


@contextmanager
def readable_errors(command: str) -> Iterator[Outcome]:
    """Within this context an error that a user can mend is printed as one message and kept as exit code 1.

    ``ACNET_PL_DEBUG=1`` lets it through with its traceback.
    """
    outcome = Outcome()
    try:
        yield outcome
    except SystemExit as stop:
        outcome.code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (ValueError, OSError, MisconfigurationException, ModuleNotFoundError, RuntimeError) as error:
        message = _message(error)
        if message is None or os.environ.get("ACNET_PL_DEBUG"):
            raise
        print(f"acnet_pl {command}: error: {message}", file=sys.stderr)
        outcome.code = 1


def _message(error: Exception) -> str | None:
    """What to tell the user, or None where the error does not look like the user's."""
    text = str(error).strip()
    if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in text:
        details = [line.strip() for line in text.splitlines()[1:]]
        shown = "\n  ".join(line if len(line) < 160 else line[:157] + "..." for line in details[:4])
        return (
            "the checkpoint is of another architecture than the configured model: give the same --model and "
            f"--data options as the run that wrote it had (its folder holds config.yaml)\n  {shown}"
        )
    if type(error) is RuntimeError and not text.startswith("acnet_pl"):
        return None
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return text


class Parser(LightningArgumentParser):
    """The parser of a command that answers a mistake with one message instead of the whole usage."""

    def __init__(self, *args: Any, description: str = "`python -m acnet_pl --help` lists all commands.", **kwargs: Any):
        super().__init__(*args, description=description, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and, for an unknown class name, what there is; exit with 2."""
        if os.environ.get("ACNET_PL_DEBUG") and ex is not None:
            raise ex
        text = re.sub(r"Parser key \"(.+?)\":", r"--\1:", message).strip()
        lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
        text = "\n  ".join(dict.fromkeys(lines))
        print(f"acnet_pl: error: {text}{_suggestions(text)}", file=sys.stderr)
        command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "COMMAND")
        print(f"See `python -m acnet_pl {command} --help`.", file=sys.stderr)
        raise SystemExit(2)


def _suggestions(text: str) -> str:
    """Names that can stand where an unknown one was given, or how to install the package that it is in."""
    for package, command in INSTALL.items():
        if f"No module named '{package}'" in text:
            return f"\n  To use {package}: {command}"
    match = re.search(r"model\.(backbone|conv|schedule)|\bdata\b", text)
    if match is None or "not accepted" in text:
        return ""
    names = _names(match.group(1) or "data")
    words = re.findall(r"[A-Za-z_][A-Za-z_0-9]*", text)
    close = [name for word in words for name in difflib.get_close_matches(word, names, n=1, cutoff=0.75)]
    close = [name for name in close if name not in words]
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"\n  Known: {', '.join(names)}{hint}"


def _names(kind: str) -> list[str]:
    from acnet_pl import backbones, data, modules, nn

    packages: dict[str, tuple[Any, str]] = {
        "backbone": (backbones, ""),
        "conv": (nn, "Conv"),
        "schedule": (modules, "Schedule"),
        "data": (data, "DataModule"),
    }
    package, ending = packages[kind]
    candidates = {name: getattr(package, name) for name in package.__all__ if name.endswith(ending)}
    return sorted(name for name, thing in candidates.items() if _is_concrete(thing) and _fits(kind, thing))


def _is_concrete(thing: object) -> bool:
    return inspect.isclass(thing) and not inspect.isabstract(thing)


def _fits(kind: str, thing: Any) -> bool:
    from acnet_pl.nn import ConvBuilder

    return kind != "conv" or issubclass(thing, ConvBuilder)
