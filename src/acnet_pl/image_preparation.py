"""Check what a file says of its network's images: their shape, their normalisation and the names of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LARGEST_IMAGE", "check_preparation", "faulty_fields"]

LARGEST_IMAGE = 4096
"""Longest side of an image in pixels, because a side that a file makes up would take all memory."""

_MOST_VALUES = 4 * LARGEST_IMAGE**2
"""Largest number of values in an image: as many channels as there are sides would take all memory, too."""

_SCALE = (1e-9, 1e9)  # of a mean and a standard deviation, which float32 has to hold


def check_preparation(found: object, source: object) -> dict[str, Any]:
    """Return a description of images, as `describe_images` makes it, if every field that it has is sound.

    Args:
        found: The description, a mapping; fields may be missing, and others are not looked at.
        source: What holds it, for the message: the file's path.

    Raises:
        ValueError: A field is of another type, length or range.
    """
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{source} describes its images by {_brief(found)}, expected names and values (image_shape, mean, std, "
            "class_names)"
        )
    for name, expected in faulty_fields(found).items():
        raise ValueError(
            f"{source} describes its images wrongly: `{name}` is {_brief(found[name])}, expected {expected}; take "
            "another file of the same run"
        )
    return dict(found)


def faulty_fields(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a description of images that are not sound, with what is expected of each."""
    return {name: expected for name, (is_sound, expected) in _FIELDS.items() if name in found and not is_sound(found)}


def _is_shape(found: Mapping[str, Any]) -> bool:
    shape = found["image_shape"]
    return (
        isinstance(shape, (list, tuple))
        and len(shape) == 3
        and all(map(_is_side, shape))
        and math.prod(shape) <= _MOST_VALUES
    )


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_IMAGE


def _each(name: str, is_sound: Callable[[float], bool]) -> Callable[[Mapping[str, Any]], bool]:
    """Return a check of a number for each channel."""

    def check(found: Mapping[str, Any]) -> bool:
        values = found[name]
        if not isinstance(values, (list, tuple)) or not values or not all(map(_is_number, values)):
            return False
        channels = found["image_shape"][0] if "image_shape" in found and _is_shape(found) else len(values)
        return len(values) == channels and all(map(is_sound, values))

    return check


def _is_number(value: object) -> bool:
    # Compared, not converted: an int may be too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def _has_names(found: Mapping[str, Any]) -> bool:
    names = found["class_names"]
    return (
        isinstance(names, (list, tuple))
        and all(isinstance(name, str) for name in names)
        and len({*names}) == len(names)
    )


_FIELDS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "image_shape": (
        _is_shape,
        f"three integers from 1 to {LARGEST_IMAGE} (channels, height and width), {_MOST_VALUES:,} values at most",
    ),
    "mean": (
        _each("mean", lambda value: abs(value) <= _SCALE[1]),
        f"a list of one number from {-_SCALE[1]:g} to {_SCALE[1]:g} for each channel",
    ),
    "std": (
        _each("std", lambda value: _SCALE[0] <= value <= _SCALE[1]),
        f"a list of one number from {_SCALE[0]:g} to {_SCALE[1]:g} for each channel",
    ),
    "resize": (lambda found: _is_side(found["resize"]), f"an integer from 1 to {LARGEST_IMAGE}"),
    "exif": (lambda found: isinstance(found["exif"], bool), "true or false"),
    "class_names": (_has_names, "a list of strings that differ, one for each class"),
}


def _brief(value: object) -> str:
    """Return a value as text of at most 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nesting without end
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."
