"""Read JSON files strictly, and say in one line why one cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from acnet_pl.regular_files import read_text

__all__ = ["read_json"]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: It is not JSON, gives a key twice, or is nested too deep.
        OSError: It cannot be read.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it gives {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
