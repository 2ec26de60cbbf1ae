"""Text from files and names of files, for a terminal."""

from __future__ import annotations

import re

__all__ = ["printable"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""Return text in which control characters, which a terminal would obey, are escaped; lines and tabs are left.

    Examples:
        >>> printable("cat\x1b[2J")
        'cat\\x1b[2J'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
