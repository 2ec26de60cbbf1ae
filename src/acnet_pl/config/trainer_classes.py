"""Check the callbacks and loggers that the trainer's options name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from acnet_pl.config.choices import CALLBACK, choices
from acnet_pl.config.errors import UsageError
from acnet_pl.config.names import did_you_mean, nearest
from acnet_pl.config.settings import Setting
from acnet_pl.config.signatures import exported, signature

__all__ = ["TRAINER_CLASSES", "check_trainer_classes", "no_such_class"]

TRAINER_CLASSES = {CALLBACK: "callback", "trainer.logger": "logger"}
"""Options of the trainer whose value is one class or several, and what such a class is called."""

_LIBRARIES = {CALLBACK: "pytorch_lightning.callbacks", "trainer.logger": "pytorch_lightning.loggers"}

_FILLED_IN = {CALLBACK: frozenset[str](), "trainer.logger": frozenset({"save_dir"})}
"""Parameters that the command line fills in if they are missing: loggers write into the run's folder."""


def check_trainer_classes(settings: Iterable[Setting]) -> None:
    """Check that known callbacks and loggers are given what they need.

    Args:
        settings: In their order: options of a class follow the class.

    Raises:
        UsageError: A parameter without a default is missing.
    """
    found: dict[str, list[tuple[Setting, str, set[str]]]] = {option: [] for option in TRAINER_CLASSES}
    for setting in settings:
        for option, named in found.items():
            if setting.name == option:
                if not setting.typed.endswith("+"):
                    named.clear()
                named += [(setting, *each) for each in _classes(setting.value)]
            elif setting.name.startswith(f"{option}.") and named:
                named[-1][2].add(setting.name.removeprefix(f"{option}."))
    for option, named in found.items():
        for setting, name, given in named:
            about = signature(_known(option).get(name, name))
            for parameter in about.parameters.values() if about else ():
                if parameter.default is None and parameter.name not in given | _FILLED_IN[option]:
                    way = "init_args" if setting.source else f"--{option}.{parameter.name}"
                    raise UsageError(f"{setting}: {name} needs {parameter.name}; give it with {way}")


def no_such_class(option: str, name: str) -> str:
    """Return the error message for a class that the parser does not find.

    Args:
        option: One of `TRAINER_CLASSES`.
        name: Name as the user gave it.
    """
    near = did_you_mean(nearest(name.rpartition(".")[2], _known(option), beginning=4))
    whole = "" if near else "; one of another package is given with its module"
    return f"--{option} {name}: there is no such {TRAINER_CLASSES[option]}{near or whole}"


def _known(option: str) -> dict[str, str]:
    """Return the classes that an option can name without their module, as ``{name: dotted path}``."""
    library = _LIBRARIES[option]
    theirs = {name: f"{library}.{name}" for name in exported(library) if name not in ("Callback", "Logger")}
    return {**theirs, **(choices(option) if option == CALLBACK else {})}


def _classes(value: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield the name of each class in an option's value, and the names of the parameters given there."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.replace(".", "_").isidentifier() and item not in ("null", "true", "false"):
            yield item, set()
        elif isinstance(item, Mapping) and isinstance(item.get("class_path"), str):
            options = [item.get(key) for key in ("init_args", "dict_kwargs")]
            yield item["class_path"], {str(name) for each in options if isinstance(each, Mapping) for name in each}
