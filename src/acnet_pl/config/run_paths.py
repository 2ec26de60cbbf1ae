"""Check that what a resumed run's configuration has written lies in the run's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.files import CONFIG
from acnet_pl.config.own_options import CALLBACKS
from acnet_pl.config.settings import settings_of_arguments

__all__ = ["check_paths"]

_WRITERS = {"trainer", *CALLBACKS}
"""Groups of options of which the classes write files."""

_PLACE = re.compile(r"((?<!sub_)dir|(?<!class_)path|folder|root|uri|location)$")
"""Options, by how their names end, whose relative paths begin at the working directory: not a logger's sub_dir."""

_FILLED_IN = ("dir", "log_dir", "save_dir")
"""Options of loggers, which have the run's folder where these are empty."""

_UNUSED = "trainer.default_root_dir"
"""Option in whose place a resumed run takes its own folder."""


def check_paths(content: Mapping[str, Any], folder: Path, arguments: Arguments) -> None:
    """Check the paths in a run's configuration that lead out of its folder.

    Args:
        content: The configuration.
        folder: The run's folder.
        arguments: The command line, whose own options take the place of the configuration's.

    Raises:
        ValueError: An option names a place elsewhere that the command line does not name.
    """
    given = {setting.name for setting in settings_of_arguments(arguments)}
    lists = [  # as a whole; a name alone keeps the options of the class that it was
        option.name
        for option in arguments.options
        if not option.typed.endswith("+") and (option.value or "").lstrip().startswith("[")
    ]
    for name, text in _texts(content, ""):
        writes = name.partition(".")[0] in _WRITERS or name.endswith(".cache_dir")
        replaced = name in (_UNUSED, *given) or any(name.startswith(f"{option}.") for option in lists)
        if writes and not replaced and _leaves(name, text, folder):
            raise ValueError(
                f"{folder / CONFIG} cannot be resumed: {name} is {text!r}, outside of the run's folder; to write "
                f"elsewhere, give your own on the command line: --{name}, or the whole command that began the run with "
                "--resume auto"
            )


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the texts in a value, each with the dotted name of its option, without ``init_args``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            inner = key in ("init_args", "dict_kwargs", "fit")
            yield from _texts(item, name if inner else f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, name)
    elif isinstance(value, str):
        yield name, value


def _leaves(name: str, text: str, folder: Path) -> bool:
    """Return True for a path that may lead out of a run's folder; other texts, such as names and patterns, do not."""
    if re.search(r"\{[^{}]*:[^{}]*[^\d.defg{}][^{}]*\}", text):  # {step:c} is a slash at step 47
        return True
    if "$" in text or "://" in text:  # which a logger replaces by a variable, or opens as an address
        return True
    path = Path(text)
    option = name.rpartition(".")[2]
    if _PLACE.search(option) and not (option in _FILLED_IN and text in ("", ".")):
        place = Path.cwd() / path
    elif path.is_absolute() or ".." in path.parts or text.startswith("~"):
        place = folder / path
    else:
        return False
    return text.startswith("~") or not place.resolve().is_relative_to(folder.resolve())
