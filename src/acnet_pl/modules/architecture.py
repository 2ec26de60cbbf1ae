"""Describe what a network was built from as plain data, and build it again without executing anything else."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from acnet_pl.modules.untrusted import check_parts
from acnet_pl.nn import ConvBuilder

__all__ = ["Factory", "build_conv", "build_network", "describe", "resolve"]

Factory = Callable[[ConvBuilder, int], nn.Module]


def describe(thing: Any) -> dict[str, Any]:
    """Describe a class, a partial of one, a function or a ConvBuilder as ``class_path`` and ``init_args``.

    The form is that of YAML configurations, so a description can be read, edited, stored as JSON and parsed again.
    Files of initial weights (``weights_file``) are left out: what is built again gets weights of its own.

    Raises:
        TypeError: It is something else (a lambda, say), or its options are not plain data.

    Examples:
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
        ValueError: A class is unknown, of a package that is not trusted (see `acnet_pl.trust`), or cannot be
            built with these options.
    """
    make = resolve(backbone, "backbone")
    if not isinstance(num_classes, int):
        raise ValueError(f"`num_classes` must be an int, got {num_classes!r}")
    network = _build(make, backbone, build_conv(conv), num_classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{backbone['class_path']} made a {type(network).__name__}, expected a torch.nn.Module")
    return network


def build_conv(conv: Mapping[str, Any]) -> ConvBuilder:
    """Build the conv builder that `describe` described; raises ValueError as `build_network`."""
    make = resolve(conv, "conv")
    if not (inspect.isclass(make) and issubclass(make, ConvBuilder)):
        raise ValueError(f"{conv['class_path']} is not a ConvBuilder")
    builder = _build(make, conv)
    assert isinstance(builder, ConvBuilder)
    return builder


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


def resolve(description: Mapping[str, Any], what: str) -> Callable[..., Any]:
    """Return the class or function that a description names; raises ValueError as `build_network`.

    Args:
        description: What `describe` returned.
        what: A key of `acnet_pl.modules.kinds.KINDS`.
    """
    check_parts({what: description})
    module, _, name = str(description["class_path"]).rpartition(".")
    made: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return made
