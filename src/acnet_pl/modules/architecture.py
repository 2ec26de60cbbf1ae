"""Describe what a network was built from in plain data, and build it again from that, executing nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from acnet_pl.modules.schedules import Schedule
from acnet_pl.nn import ConvBuilder

__all__ = ["Factory", "build_conv", "build_network", "check_hyper_parameters", "check_parts", "describe"]

Factory = Callable[[ConvBuilder, int], nn.Module]

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"
"""What Lightning is to build a model with that a checkpoint describes."""

_KINDS: dict[str, tuple[type, ...]] = {
    "backbone": (nn.Module,),
    "conv": (ConvBuilder,),
    "optimizer": (Optimizer,),
    "schedule": (Schedule, LRScheduler),
}
_ANY_KIND = tuple(kind for kinds in _KINDS.values() for kind in kinds)


def describe(thing: Any) -> dict[str, Any]:
    """Describe a class, a partial of one, a function or a ConvBuilder as ``class_path`` and ``init_args``.

    The form is that of YAML configurations, so a description can be read, edited, stored as JSON and parsed again.
    Files of initial weights (``weights_file``) are left out: what is built again gets weights of its own.

    Raises:
        TypeError: It is something else (a lambda, say), or its options are not plain data.

    Example:
        >>> from acnet_pl.nn import PlainConv
        >>> describe(PlainConv())
        {'class_path': 'acnet_pl.nn.conv.PlainConv', 'init_args': {'draw': 'pytorch'}}
    """
    target, options = thing, {}
    if isinstance(thing, partial):
        # The command line's parser makes partials of its own instantiator, with the class among the arguments.
        classes: list[Any] = [argument for argument in (thing.func, *thing.args) if inspect.isclass(argument)]
        target, options = (classes or [thing.func])[0], dict(thing.keywords)
    elif not inspect.isclass(thing) and not inspect.isfunction(thing):
        accepted = inspect.signature(type(thing)).parameters
        target, options = type(thing), {name: value for name, value in vars(thing).items() if name in accepted}
    path = f"{target.__module__}.{target.__qualname__}"
    if "<" in path:
        raise TypeError(
            f"cannot describe {thing!r} so that it can be built again from a checkpoint: give a class, a function of a "
            "module, or a functools.partial of one"
        )
    options.pop("weights_file", None)
    try:
        options = json.loads(json.dumps(options, default=_plain))
    except TypeError as error:
        raise TypeError(f"the options of {path} must be plain data (numbers, strings, lists), got {options}") from error
    return {"class_path": path, "init_args": options}


def build_network(backbone: Mapping[str, Any], conv: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Build the network that `describe` described.

    Args:
        backbone: Description of the backbone.
        conv: Description of the conv builder.
        num_classes: Classes of the head.

    Raises:
        ValueError: A class is unknown, in a package that is neither acnet_pl nor imported by the caller, or cannot be
            built with these options.
    """
    make = _resolve(backbone, "backbone")
    if not isinstance(num_classes, int):
        raise ValueError(f"`num_classes` must be an int, got {num_classes!r}")
    network = _build(make, backbone, build_conv(conv), num_classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{backbone['class_path']} made a {type(network).__name__}, expected a torch.nn.Module")
    return network


def build_conv(conv: Mapping[str, Any]) -> ConvBuilder:
    """Build the conv builder that `describe` described; raises ValueError as `build_network`."""
    make = _resolve(conv, "conv")
    if not (inspect.isclass(make) and issubclass(make, ConvBuilder)):
        raise ValueError(f"{conv['class_path']} is not a ConvBuilder")
    builder = _build(make, conv)
    assert isinstance(builder, ConvBuilder)
    return builder


def check_hyper_parameters(options: Any) -> None:
    """See that an `ImageClassifier`'s hyper-parameters out of a file can have nothing executed.

    Raises:
        ValueError: They might, or are no hyper-parameters.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"the hyper-parameters are a {type(options).__name__}, expected names and values")
    for name, value in options.items():
        if name == "_instantiator":
            if value != INSTANTIATOR:
                raise ValueError(f"it asks to be built by {value!r}, expected {INSTANTIATOR}")
        elif not str(name).isidentifier() or str(name).startswith("_"):
            raise ValueError(f"{name!r} is not the name of a hyper-parameter")
        elif name in _KINDS:
            check_parts({name: value})
        else:
            _check_value(f"hyper-parameter {name}", value)


def check_parts(parts: Mapping[str, Any]) -> None:
    """See that descriptions out of a file are of networks, conv builders, optimizers and schedules.

    A file must not be able to make us import, and so run, whatever module it names, nor call whatever a module holds.

    Args:
        parts: Descriptions, by what they describe.

    Raises:
        ValueError: One is not, is of a module that is neither acnet_pl's nor imported already, or has options that name
            something to be imported.
    """
    for what, description in parts.items():
        if not isinstance(description, Mapping) or not isinstance(description.get("class_path"), str):
            raise ValueError(f"the {what} is described by {description!r}, expected a class_path and init_args")
        path = description["class_path"]
        module, _, name = path.rpartition(".")
        if module.split(".")[0] != "acnet_pl" and module not in sys.modules:
            raise ValueError(f"the {what} {path} is not acnet_pl's own; if you trust it, run `import {module}` first")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"there is no {what} {path} in this version of its package") from error
        kinds = _KINDS.get(what, _ANY_KIND)
        if not _makes(found, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{path} is not a {what}: expected a {names}, or a function annotated to return one")
        options = description.get("init_args", {})
        if not isinstance(options, Mapping):
            raise ValueError(f"the options of the {what} are {options!r}, expected names and values")
        texts = {name for name, x in inspect.signature(found).parameters.items() if _is_text(x.annotation)}
        for name, value in options.items():
            if name not in texts:
                _check_value(f"option {name} of the {what}", value)


def _check_value(what: str, value: Any) -> None:
    """See that a value which may be of any type does not name something to be imported."""
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
    elif isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        package = value.partition(".")[0]
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            raise ValueError(f"the {what} is {value!r}, which would be imported; expected plain data")


def _is_text(annotation: Any) -> bool:
    words = set(re.findall(r"\w+", annotation if isinstance(annotation, str) else str(annotation)))
    return "str" in words and words <= {"str", "None", "NoneType", "class", "typing", "Optional", "Union"}


def _build(make: Callable[..., Any], description: Mapping[str, Any], *args: Any) -> Any:
    try:
        return make(*args, **description.get("init_args", {}))
    except ValueError:
        raise
    except Exception as error:  # what options out of a file may lead to
        raise ValueError(f"{description['class_path']} cannot be built as described: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, set)):
        return list(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _resolve(description: Mapping[str, Any], what: str) -> Callable[..., Any]:
    check_parts({what: description})
    module, _, name = str(description["class_path"]).rpartition(".")
    made: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return made


def _makes(thing: object, kinds: tuple[type, ...]) -> bool:
    """Whether something is made for making one of these kinds, and not just any callable of some module."""
    if inspect.isfunction(thing):
        thing = get_type_hints(thing).get("return")
    return inspect.isclass(thing) and issubclass(thing, kinds)
