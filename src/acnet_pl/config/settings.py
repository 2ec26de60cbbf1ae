"""Read the settings of default files, ``--config`` files and options, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acnet_pl.config.arguments import Arguments, Option
from acnet_pl.config.choices import SLOTS
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import content_of, read_config
from acnet_pl.config.own_options import CALLBACKS

__all__ = ["GROUPS", "Setting", "settings_of_arguments", "settings_of_files", "text_of"]

GROUPS = {
    "trainer": "pytorch_lightning.Trainer",
    "model": "acnet_pl.modules.ImageClassifier",
    "wandb": "acnet_pl.config.own_options.WandbOptions",
    **CALLBACKS,
}
"""Classes whose parameters are options, by the name that these begin with."""


@dataclass(frozen=True)
class Setting:
    """One value that a source gives to one option.

    Attributes:
        name: Dotted name of the option, without ``init_args`` and ``class_path``.
        value: Its value; text where it is from the command line.
        typed: The option as it was typed or written.
        source: The file, or None for the command line.
        position: Index of the option, or of the ``--config`` that names the file, among the command's words.
    """

    name: str
    value: Any
    typed: str
    source: str | None
    position: int

    def __str__(self) -> str:
        return self.typed if self.source is None else f"{self.source}: {self.typed}"


def settings_of_arguments(arguments: Arguments) -> Iterator[Setting]:
    """Yield what a command line sets, its configurations included.

    Raises:
        UsageError: A configuration cannot be read, or a value has a key twice.
    """
    for option in arguments.options:
        if option.name == "config" and option.value is not None:
            content = read_config(option.value)
            shown = option.value if Path(option.value).is_file() else "--config"
            yield from _settings(content, "", "", shown, option.position)
        else:
            yield from _setting_of_option(option)


def settings_of_files(files: list[str]) -> Iterator[Setting]:
    """Yield the settings of default files, which the command line overrides."""
    for file in files:
        yield from _settings(content_of(file), "", "", file, -1)


def text_of(value: Any) -> str | None:
    """Return a plain value as it would be typed; None for lists and mappings."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else None


def _setting_of_option(option: Option) -> Iterator[Setting]:
    name = option.name.removesuffix(".class_path")
    if option.value is not None and option.value.lstrip().startswith(("{", "[", "&")):
        import yaml

        from acnet_pl.yaml_text import DuplicateKeyError, TooLargeError, parse

        try:
            content = parse(option.value)
        except (DuplicateKeyError, TooLargeError) as error:
            raise UsageError(f"{option.typed}: {error.problem}") from error
        except (yaml.YAMLError, ValueError, RecursionError):
            content = None  # which the parser reports
        if name in SLOTS and isinstance(content, dict):
            yield from _class(name, content, option.typed, None, option.position)
            return
    yield Setting(name, option.value, option.typed, None, option.position)


def _settings(content: Mapping[Any, Any], above: str, typed: str, source: str, position: int) -> Iterator[Setting]:
    for key, value in content.items():
        name, shown = f"{above}{str(key).rstrip('+')}", f"{typed}{key}"
        if name in SLOTS and isinstance(value, Mapping):
            yield from _class(name, value, shown, source, position)
        elif name in GROUPS and isinstance(value, Mapping):
            yield from _settings(value, f"{name}.", f"{shown}.", source, position)
        else:
            yield Setting(name, value, shown, source, position)


def _class(name: str, value: Mapping[Any, Any], typed: str, source: str | None, position: int) -> Iterator[Setting]:
    """Yield the settings in the description of a class: the class, then its options."""
    if "class_path" in value:
        yield Setting(name, value["class_path"], typed, source, position)
    elif "init_args" not in value:  # options without ``init_args`` around them, or nothing that is a class
        yield from (Setting(f"{name}.{key}", item, f"{typed}.{key}", source, position) for key, item in value.items())
    options = value.get("init_args")
    for key, item in options.items() if isinstance(options, Mapping) else ():
        yield Setting(f"{name}.{key}", item, f"{typed}.init_args.{key}", source, position)
