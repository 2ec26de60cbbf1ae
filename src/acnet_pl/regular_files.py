"""Open only regular files: a named pipe waits for ever, and a device never ends."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

__all__ = ["MOST_TEXT", "UnsuitableFileError", "check_regular", "read_text"]

MOST_TEXT = 64 * 2**20
"""Most bytes of a text that is read as a whole."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class UnsuitableFileError(OSError):
    """What lies under a path is not a regular file, or too large."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def check_regular(path: str | Path) -> int:
    """Raise an error unless a path is a regular file or a link to one; return its size in bytes.

    Raises:
        FileNotFoundError: There is nothing.
        UnsuitableFileError: It is a folder, a named pipe, a device or a socket.

    Example:
        >>> check_regular("/dev/zero")
        Traceback (most recent call last):
        acnet_pl.regular_files.UnsuitableFileError: /dev/zero: it is a device, expected a regular file
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise UnsuitableFileError(number, f"it is {kind}, expected a regular file", str(path))
    return found.st_size


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """Read a whole text in UTF-8.

    Args:
        path: A regular file.
        most: Largest size, in bytes.

    Raises:
        OSError: It cannot be read, is no regular file, or is larger.
        UnicodeDecodeError: It is not UTF-8.
    """
    check_regular(path)
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UnsuitableFileError(
            errno.EFBIG, f"it is larger than {most / 2**20:.0f} MiB, too much for such a text", str(path)
        )
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
