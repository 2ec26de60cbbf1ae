"""Find the packages that the user's command line names, and so trusts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.choices import offered
from acnet_pl.config.files import content_of

__all__ = ["named_elsewhere", "take_trusted"]


def take_trusted(args: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Remove ``--trust PACKAGE`` from a command line and return every package that it names.

    A class path on the command line, or in a file that ``--config`` gives, names its package too, and so does the short
    name of a class that an installed package offers by an entry point. What a run's folder or a checkpoint holds names
    nothing.

    Returns:
        The other arguments, and the names of top-level packages.

    Raises:
        ValueError: ``--trust`` comes without the name of a package.
    """
    arguments, others = Arguments(args), list(args)
    named = {path.partition(".")[0] for path in named_elsewhere(args)}
    named |= {package for word in _words(arguments) if (package := _package(word))}
    for option in reversed(arguments.options):
        if option.name == "trust":
            if option.value is None or not option.value.isidentifier():
                raise ValueError(f"--trust takes the name of a package, got {option.value!r}: --trust mypackage")
            named.add(option.value)
            del others[option.position : option.position + (1 if "=" in others[option.position] else 2)]
    return others, frozenset(named)


def named_elsewhere(args: Sequence[str]) -> list[str]:
    """Return the dotted paths of other packages' classes that a command line names by short names.

    Args:
        args: The command and its arguments.
    """
    classes = offered()
    return [classes[word] for word in _words(Arguments(args)) if word in classes] if classes else []


def _loaded(text: str) -> Any:
    import yaml

    if not any(mark in text for mark in "{["):
        return text
    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None  # the parser will say what is wrong with it


def _package(word: str) -> str | None:
    """Return the package of a dotted name; None for other words."""
    parts = word.split(".")
    return parts[0] if len(parts) > 1 and all(part.isidentifier() for part in parts) else None


def _words(arguments: Arguments) -> Iterator[str]:
    """Yield the positional words and the texts in option values (not ``--trust``'s) and in ``--config`` files."""
    yield from (word for _, word in arguments.positional)
    for option in arguments.options:
        if option.value is not None and option.name != "trust":
            yield from _text(content_of(option.value) if option.name == "config" else _loaded(option.value))


def _text(value: Any, depth: int = 50) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _text(item, depth - 1)
