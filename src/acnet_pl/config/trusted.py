"""Find the packages that the user's command line names, and so trusts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from acnet_pl.config.arguments import Arguments, Option
from acnet_pl.config.choices import SLOTS, offered
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import content_of
from acnet_pl.config.trainer_classes import TRAINER_CLASSES
from acnet_pl.trust import TRUSTED

__all__ = ["TRUST", "named_elsewhere", "take_trusted"]

TRUST = ("--trust PACKAGE", "let files name classes of this package")
"""For the help of commands, all of which take it: the option and its explanation."""

_PLUGINS = ("trainer.accelerator", "trainer.plugins", "trainer.profiler", "trainer.strategy")
_CLASSES = {*SLOTS, *TRAINER_CLASSES, *_PLUGINS}
"""Options whose value names a class, or several."""

_GROUPS = ("data", "model", "trainer")
"""Where the description of a class, with a ``class_path``, may stand in an option's value at any depth."""

_COMMANDS = ("fit", "validate", "test", "predict")


def take_trusted(args: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """Remove ``--trust PACKAGE`` from a command line and return every package that it names.

    Of `TRUSTED`, of which files may name a part without this, only ``--trust`` names a package.

    A class path that an option takes, or one in a file that ``--config`` gives, names its package too, and so does the
    short name of a class that an installed package offers by an entry point. The names of files, runs and outputs name
    nothing, nor does what a run's folder or a checkpoint holds.

    Returns:
        The other arguments, and the names of top-level packages.

    Raises:
        UsageError: ``--trust`` comes without the name of a package.
    """
    arguments, others = Arguments(args), list(args)
    named = {path.partition(".")[0] for path in named_elsewhere(args)}
    named |= {package for word in _class_names(arguments) if (package := _package(word))}
    named -= set(TRUSTED)  # a file may name but parts of these
    for option in reversed(arguments.options):
        if option.name == "trust":
            if option.value is None or not option.value.isidentifier():
                got = "nothing" if option.value is None else repr(option.value)
                raise UsageError(f"--trust takes the name of a top-level package, got {got}: --trust mypackage")
            named.add(option.value)
            del others[option.position : option.position + (1 if "=" in others[option.position] else 2)]
    return others, frozenset(named)


def named_elsewhere(args: Sequence[str]) -> list[str]:
    """Return the dotted paths of other packages' classes that a command line names by short names.

    Args:
        args: The command and its arguments.
    """
    classes = offered()
    return [classes[word] for word in _class_names(Arguments(args)) if word in classes] if classes else []


def _class_names(arguments: Arguments) -> Iterator[str]:
    """Yield the names of classes in the values of options that take classes, and in ``--config`` files."""
    for option in arguments.options:
        if option.value is not None:
            yield from _names(_content(option), "" if option.name == "config" else option.name)


def _content(option: Option) -> Any:
    import yaml

    from acnet_pl.yaml_text import parse

    text = option.value or ""
    if option.name == "config":
        return content_of(text)
    if not any(mark in text for mark in "{["):
        return text
    try:
        return parse(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None  # the parser will say what is wrong with it


def _names(value: Any, name: str, depth: int = 50) -> Iterator[str]:
    """Yield the names of classes in a value.

    Args:
        value: An option's value, or the content of a configuration.
        name: Dotted name of the option, without ``init_args``; nothing for a whole configuration.
        depth: Levels of the value to look at.
    """
    if isinstance(value, dict) and depth:
        for key, item in value.items():
            parts = [part for part in f"{name}.{key}".rstrip("+").split(".") if part and part != "init_args"]
            yield from _names(item, ".".join(parts[1:] if parts[:1] and parts[0] in _COMMANDS else parts), depth - 1)
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _names(item, name, depth - 1)
    elif isinstance(value, str):
        described = name.partition(".")[0] in _GROUPS and name.endswith(".class_path")
        if described or name in _CLASSES:
            yield value


def _package(word: str) -> str | None:
    """Return the package of a dotted name; None for other words, and for the name of a file that is there."""
    parts = word.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts) or Path(word).exists():
        return None
    return parts[0]
