"""Limit the memory of a network that a file describes, before it is built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acnet_pl.nn.dispatch_mode import DispatchMode

__all__ = ["built_within"]

_TIMES, _BYTES = 64, 64 * 2**20
"""Factor and constant, because building takes more than the file: branches, float32, buffers and temporary tensors."""


class _Budget(DispatchMode):
    """Counter of tensor sizes that raises an error before the limit is exceeded."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args else None
        if isinstance(size, (list, tuple)) and all(isinstance(side, int) for side in size):
            self.left -= 4 * math.prod(size)
            if self.left < 0:
                raise ValueError("it describes a network that is far larger than the file itself")
        return func(*args, **(kwargs or {}))


@contextmanager
def built_within(path: str | Path) -> Iterator[None]:
    """Limit the networks built within this context to a size that the file describing them can hold.

    Args:
        path: The checkpoint or the fused file.

    Raises:
        ValueError: The networks need more than 64 times the size of the file plus 64 MiB.
    """
    with _Budget(_TIMES * Path(path).stat().st_size + _BYTES):
        yield
