"""Find the values that something still refers to after a call, wherever it keeps them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["older_objects_set_aside", "still_alive"]

_Label = TypeVar("_Label")
_Value = TypeVar("_Value")


class _SetAside:
    """Who has left objects out of garbage collection. It is remembered: to count them takes longer than a trace."""

    by_others = False
    by_us = False


@contextmanager
def older_objects_set_aside() -> Iterator[None]:
    """Leave what exists now out of garbage collection for a while; `still_alive` then takes a tenth of the time."""
    if not (_SetAside.by_others or _SetAside.by_us):  # `unfreeze` would bring back what someone else has set aside
        _SetAside.by_others = gc.get_freeze_count() > 0
    if _SetAside.by_others or _SetAside.by_us:
        yield
        return
    _SetAside.by_us = True
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        _SetAside.by_us = False


def still_alive(
    made: Collection[tuple[_Label, weakref.ref[_Value]]], given: Collection[object]
) -> list[tuple[_Label, _Value]]:
    """Return the values among weak references that are alive, except those in ``given``, with their labels.

    The caller may not refer to them itself. Values that only reference cycles refer to are not alive.
    """

    def alive() -> list[tuple[_Label, _Value]]:
        values = ((label, reference()) for label, reference in made)
        return [(label, value) for label, value in values if value is not None and id(value) not in known]

    known = {id(value) for value in given}
    for generation in range(3):  # cycles that a trace has left are young, and collecting all takes long
        if not alive():
            return []
        gc.collect(generation)
    return alive()
