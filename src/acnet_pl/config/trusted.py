"""The packages that the user's own command line names, and so trusts to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.files import content_of

__all__ = ["take_trusted"]


def take_trusted(args: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Split ``--trust PACKAGE`` off a command line and collect every package that it names.

    A class path on the command line, or in a file that ``--config`` gives, names its package too. What a run's folder
    or a checkpoint holds names nothing.

    Returns:
        The other arguments, and the names of top-level packages.

    Raises:
        ValueError: ``--trust`` comes without the name of a package.
    """
    arguments, others = Arguments(args), list(args)
    named = {package for _, word in arguments.positional for package in _packages(word)}
    for option in reversed(arguments.options):
        if option.name == "trust":
            if option.value is None or not option.value.isidentifier():
                raise ValueError(f"--trust takes the name of a package, got {option.value!r}: --trust mypackage")
            named.add(option.value)
            del others[option.position : option.position + (1 if "=" in others[option.position] else 2)]
        elif option.value is not None:
            named.update(_packages(content_of(option.value) if option.name == "config" else _loaded(option.value)))
    return others, frozenset(named)


def _loaded(text: str) -> Any:
    import yaml

    if not any(mark in text for mark in "{["):
        return text
    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None  # the parser will say what is wrong with it


def _packages(value: Any, depth: int = 50) -> Iterator[str]:
    """Yield the packages of the dotted names in a value."""
    if isinstance(value, str):
        parts = value.split(".")
        if len(parts) > 1 and all(part.isidentifier() for part in parts):
            yield parts[0]
    elif depth and isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _packages(item, depth - 1)
