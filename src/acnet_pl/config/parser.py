"""A parser that answers a mistake with one message and, for an unknown class name, with what there is."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from acnet_pl.integrations import INSTALL

__all__ = ["Parser"]

# What jsonargparse says about how it looked for a value, where what it expected is enough.
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|^\s*Errors:|Given value type|Expected a path but|<class 'NoneType'>"
)


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
