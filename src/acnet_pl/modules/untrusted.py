"""Check the classes that files of runs and checkpoints name: trusted packages, expected kinds.

A file must not be able to make us import, and so run, whatever module it names, nor call whatever a module holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace

from acnet_pl.modules.kinds import KINDS, check_kind, check_passed_on, check_place
from acnet_pl.regular_files import read_text
from acnet_pl.trust import TRUSTED, is_standard, is_trusted
from acnet_pl.yaml_text import parse

__all__ = ["check_classes", "check_configuration", "check_hyper_parameters", "check_parts"]

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"
"""The one function by which Lightning may build a model that a checkpoint describes."""

_PLAIN = r"(?:[\w./ +,=^~()-]|:(?=[^\s:]))*"  # without what YAML needs for more than a text, and control characters
_FOLDERS: ContextVar[tuple[Path, ...]] = ContextVar("acnet_pl_folders_of_files", default=(Path(),))


def check_hyper_parameters(options: Any) -> None:
    """Raise ValueError if hyper-parameters of an `ImageClassifier` from a file could execute code."""
    if not isinstance(options, Mapping):
        raise ValueError(f"the hyper-parameters are a {type(options).__name__}, expected names and values")
    for name, value in options.items():
        if name == "_instantiator":
            if value != INSTANTIATOR:
                raise ValueError(f"it asks to be built by {value!r}, expected {INSTANTIATOR}")
        elif not str(name).isidentifier() or str(name).startswith("_"):
            raise ValueError(f"{name!r} is not the name of a hyper-parameter")
        elif name in KINDS:
            check_parts({name: value})
        else:
            _check_value(f"hyper-parameter {name}", value)


def check_parts(parts: Mapping[str, Any]) -> None:
    """Check descriptions from a file: trusted packages, expected kinds, options that import nothing.

    Args:
        parts: Descriptions (``class_path`` and ``init_args``), by what they describe: a key of `KINDS`, or any name.

    Raises:
        ValueError: One is not; the message says how to trust a package.
    """
    for what, description in parts.items():
        if not isinstance(description, Mapping) or not isinstance(description.get("class_path"), str):
            raise ValueError(f"the {what} is described by {description!r}, expected a class_path and init_args")
        path = description["class_path"]
        module, _, name = path.rpartition(".")
        if not module:
            raise ValueError(f"the {what} is {path!r}, expected a dotted path, as acnet_pl.backbones.CifarQuick")
        _check_package(what, path)
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
                raise ValueError(f"the {what} {path} needs the package {error.name}, which is not installed") from error
            raise ValueError(f"there is no {what} {path} in this version of its package") from error
        check_kind(what, found, path)
        check_place(what, found, path)
        if unknown := [key for key in description if key not in ("class_path", "init_args", "dict_kwargs")]:
            raise ValueError(f"the {what} is described by {unknown[0]!r} too, expected class_path and init_args alone")
        for key in ("init_args", "dict_kwargs"):
            options = description.get(key) or {}
            if not isinstance(options, Mapping):
                raise ValueError(f"the options of the {what} are {options!r}, expected names and values")
            check_passed_on(what, found, options)
            _check_options(what, found, options)


def _check_package(what: str, path: str) -> None:
    module = path.rpartition(".")[0]
    if is_trusted(module):
        return
    if is_standard(module):
        raise ValueError(
            f"the {what} {path} is of Python's standard library; such a name has no place in a run's files, so do not "
            "use what comes with it"
        )
    raise ValueError(
        f"the {what} {path} is not of a package that files may name ({', '.join(TRUSTED)}); if you trust it, add "
        f"--trust {module.partition('.')[0]} to the command, or run `import {module}` first in Python"
    )


def check_classes(config: Any) -> None:
    """Check the classes that a parsed configuration names, before any is called.

    The parser sees to the kind of a class; of a function it knows only that it can be called.

    Args:
        config: Names and values, or a list of values.

    Raises:
        ValueError: A class or function makes something of another kind, or is of a package that nobody has named.
    """
    if isinstance(config, list):
        for item in config:
            check_classes(item)
    if not isinstance(config, (dict, Namespace)):
        return
    for name, value in config.items() if isinstance(config, dict) else vars(config).items():
        for each in value if isinstance(value, list) else [value]:
            path = each.get("class_path") if isinstance(each, (dict, Namespace)) else None
            if isinstance(path, str):
                _check_package(name, path)
            if name in KINDS and isinstance(path, str):
                check_kind(name, locate(path), path)
            elif name in KINDS and inspect.isroutine(each):
                check_kind(name, each, f"{each.__module__}.{each.__qualname__}")
        check_classes(value)


def check_configuration(path: Path, groups: Mapping[str, str]) -> Mapping[Any, Any]:
    """Check the classes in a run's ``config.yaml``, before the parser imports them, and return its content.

    Args:
        path: The file.
        groups: Dotted paths of the classes whose options it may hold, by the name that these begin with.

    Raises:
        ValueError: It is no configuration, names a class that is not trusted or of another kind, or another file.
    """
    try:
        content = parse(read_text(path))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a configuration ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected the options of a run")
    token = _FOLDERS.set((Path(), path.parent))  # the parser finds a file beside the configuration that names it
    try:
        _check_groups(content, groups)
    except RecursionError as error:
        raise ValueError(f"{path} cannot be resumed: it is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be resumed: {error}") from error
    finally:
        _FOLDERS.reset(token)
    return content


def _check_groups(content: Mapping[Any, Any], groups: Mapping[str, str]) -> None:
    for name, value in content.items():
        if not str(name).isidentifier():
            raise ValueError(f"{name!r} is not the name of an option; options of a group are nested, without dots")
        if name == "config" and value is not None:
            raise ValueError(f"`config` is {value!r}, expected the options themselves")
        if name in ("fit", "validate", "test", "predict"):
            if not isinstance(value, Mapping):
                raise ValueError(f"`{name}` is {value!r}, expected names and values")
            _check_groups(value, groups)
        elif (name == "data" or name in groups) and value is not None:
            if not isinstance(value, Mapping):
                raise ValueError(f"`{name}` is {value!r}, expected names and values")
            if "class_path" in value:
                check_parts({name: value})
            else:
                _check_options(name, locate(groups[name]) if name in groups else None, value)
        elif isinstance(value, (Mapping, list)):
            _check_value(str(name), value)


def _check_options(what: str, made: Any, options: Mapping[Any, Any]) -> None:
    """Check the options of a class or function; options annotated as text may hold any text."""
    parameters = inspect.signature(made).parameters if made is not None else {}
    texts = {name for name, parameter in parameters.items() if _is_text(parameter.annotation)}
    lists = {name for name, parameter in parameters.items() if _is_text(parameter.annotation, "list")}
    for name, value in options.items():
        if not str(name).isidentifier():
            raise ValueError(f"{name!r} is not the name of an option of the {what}")
        if name in texts and isinstance(value, str):
            continue
        if name in lists and isinstance(value, list) and all(isinstance(item, str) for item in value):
            continue
        if what in ("model", "trainer") and name in KINDS and isinstance(value, Mapping) and "class_path" in value:
            check_parts({name: value})
        else:
            _check_value(f"option {name} of the {what}", value)


def _check_value(what: str, value: Any) -> None:
    """Raise ValueError if a value of unknown type names something to import or a file to read."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            check_parts({what: value})
        else:
            for name, item in value.items():
                _check_value(what, name)
                _check_value(what, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_value(what, item)
    elif isinstance(value, str):
        _check_text(what, value)
    elif isinstance(value, (bytes, set, frozenset)):
        raise ValueError(f"the {what} is of YAML's type {type(value).__name__}, expected plain data")


def _check_text(what: str, text: str) -> None:
    if "." in text and all(part.isidentifier() for part in text.split(".")):
        package = text.partition(".")[0]
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            raise ValueError(f"the {what} is {text!r}, which would be imported; expected plain data")
    if re.match(r"\s*[\w+.-]+:(//|:)", text):
        raise ValueError(f"the {what} is {text!r}, an address that would be opened; expected plain data")
    # The parser reads YAML inside strings, and takes for YAML what another parser refuses.
    if not re.fullmatch(_PLAIN, text):
        raise ValueError(f"the {what} is {text!r}, which may be read as more than text; expected plain data")
    if not re.fullmatch(r"[\w./-]*", text):
        try:
            inside = parse(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"the {what} is {text!r}, which is neither text nor YAML; expected plain data") from error
        if inside != text:
            _check_value(what, inside)
    if _is_file(text):
        raise ValueError(f"the {what} is {text!r}, a file that would be read; expected plain data")


def _is_file(text: str) -> bool:
    try:
        return any((folder / Path(text).expanduser()).is_file() for folder in _FOLDERS.get())
    except (OSError, ValueError, RuntimeError):  # too long, with a null character, or of no such user
        return False


def _is_text(annotation: Any, container: str = "") -> bool:
    words = set(re.findall(r"\w+", annotation if isinstance(annotation, str) else str(annotation)))
    others = {"str", "None", "NoneType", "class", "typing", "Optional", "Union", "Path", "pathlib"}
    needed = {"str", container} - {""}
    return needed <= words <= others | needed
