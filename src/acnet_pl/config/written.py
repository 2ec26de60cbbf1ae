"""Write a configuration as text that is read back with the same values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from jsonargparse.typing import register_type

from acnet_pl.config.errors import UsageError
from acnet_pl.yaml_text import parse

__all__ = ["NO_TEXT", "without_unwritable"]

NO_TEXT = "Unable to serialize instance"
"""What jsonargparse writes, and warns, in place of a value that it has no text for."""


def without_unwritable(text: str, read_and_write: Callable[[dict[str, Any]], str]) -> str:
    """Leave out of a configuration what has no text, if that is the default of its option.

    Args:
        text: The configuration as jsonargparse writes it.
        read_and_write: Return the text of a configuration that is read from a mapping.

    Raises:
        UsageError: A value that has no text is not the default; the message names the option.
    """
    import yaml

    content = deepcopy(parse(text))
    left_out = [(path, _at(content, path)) for path in _unwritable(content, ())]
    for path, _ in left_out:
        del _at(content, path[:-1])[path[-1]]
    again = parse(read_and_write(deepcopy(content)))
    for path, value in left_out:
        if _without_addresses(_at(again, path)) != _without_addresses(value):
            name = ".".join(key for key in path if isinstance(key, str) and key != "init_args")
            shown = str(value).removeprefix(NO_TEXT).strip()
            raise UsageError(
                f"--{name}: its value {shown} cannot be written to config.yaml, so that the run could not be repeated "
                "or resumed; leave the option out, or give a value that is text or a number"
            )
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _unwritable(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each option whose value, or a part of it that is no option, has no text."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict) or (isinstance(item, list) and any(isinstance(each, dict) for each in item)):
            yield from _unwritable(item, (*path, key))
        elif NO_TEXT in str(item):
            yield (*path, key)


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _without_addresses(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _device(text: object) -> torch.device:
    if not isinstance(text, str):  # numbers stay what they are
        raise ValueError(f"expected the name of a device, such as cpu or cuda:1, got {text!r}")
    try:
        return torch.device(text)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _dtype(text: object) -> torch.dtype:
    found = getattr(torch, str(text).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"expected a dtype, such as float32 or torch.float32, got {text!r}")
    return found


def _text(value: object) -> str:
    if not isinstance(value, (torch.device, torch.dtype)):  # another type of a union
        raise ValueError(f"expected a device or a dtype, got {value!r}")
    return str(value)


register_type(torch.device, _text, _device)
register_type(torch.dtype, _text, _dtype)
