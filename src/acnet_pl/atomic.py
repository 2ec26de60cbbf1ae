"""Write files atomically: a reader finds the old or the new file whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from acnet_pl.regular_files import check_regular

__all__ = ["atomic_path", "remove_unfinished"]

_PREFIX = ".unfinished-"


@contextmanager
def atomic_path(path: str | Path, previous: str | Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it replaces ``path`` if the block succeeds.

    The content is on the disk (fsync) before the rename, and the rename before the block is left, so that a crash or a
    power cut leaves either file whole. Where the block raises, ``path`` is as it was and the temporary file is gone.

    Args:
        path: File to write. Its folder is made where it is missing; the temporary file has the same suffix. A link is
            replaced by the file, and what it names is left alone.
        previous: Where the file that ``path`` was before is kept; there is no moment without a whole ``path``.

    Raises:
        OSError: It cannot be written, or is a named pipe or device; a full disk is known by ``errno.ENOSPC``.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "report.txt")
        >>> with atomic_path(path) as unfinished:
        ...     _ = unfinished.write_text("whole")
        ...     path.exists()
        False
        >>> path.read_text()
        'whole'
    """
    path = Path(path)
    if path.exists() and not path.is_symlink() and not path.is_dir():
        check_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())  # safetensors makes files that their owner alone can read
        _sync(unfinished)
        if previous is not None and path.exists():
            _keep(path, Path(previous))
        unfinished.replace(path)
        _sync(path.parent)
    except OSError as error:
        if str(error.filename) == str(unfinished):
            error.filename = str(path)  # nobody knows the other name
        raise
    finally:
        with suppress(OSError):  # which would hide the first
            unfinished.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    link = previous.with_name(f"{_PREFIX}{os.getpid()}-{previous.name}")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
        link.replace(previous)
    except OSError:  # a file system without hard links: for a moment the file has its earlier name only
        link.unlink(missing_ok=True)
        path.replace(previous)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process left below a folder nobody else writes to."""
    for file in folder.rglob(f"{_PREFIX}*"):
        if file.is_symlink() or not file.is_dir():
            file.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
