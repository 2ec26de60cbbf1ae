"""Errors of `publish_tables.py` that name what was asked for and what exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

_Value = TypeVar("_Value")


class PublishError(ValueError):
    """A text, marker or record that tables cannot be written from; the message is one sentence a line."""


def chosen(found: Mapping[str, _Value], key: str, what: str) -> _Value:
    """Return the value of a key, or raise a `PublishError` with the keys that exist."""
    if key in found:
        return found[key]
    close = get_close_matches(key, found, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise PublishError(f"{key!r} is no {what}{meant}; there is {listed(found)}")


def listed(names: Iterable[str], most: int | None = None) -> str:
    """Return names with commas between, the first `most` of them and how many more there are."""
    every = list(dict.fromkeys(names))
    shown = every[:most]
    more = f" and {len(every) - len(shown)} more" if len(shown) < len(every) else ""
    return (", ".join(shown) or "none") + more
