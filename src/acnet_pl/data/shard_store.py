"""ShardStore: files of a local or remote folder, through a cache of limited size."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from acnet_pl.data.errors import DataError

__all__ = ["ShardStore"]


class ShardStore:
    """Files of one folder; remote ones are fetched by LitData's downloaders, once per machine.

    Args:
        root: The folder: a path, or an address that LitData knows (``s3://``, ``gs://``, ``azure://``, ``hf://``,
            ``r2://``; ``local:`` for a mounted folder that is to be cached).
        cache_dir: Where fetched files are kept; the default is in the machine's temporary folder, a folder of
            this user that nobody else can read or write.
        cache_gb: How much is kept, in 10^9 bytes, before files are removed.
    """

    def __init__(self, root: str, cache_dir: str | Path | None = None, cache_gb: float = 100) -> None:
        self.root = root
        self.remote = "://" in root or root.startswith("local:")
        name = hashlib.sha256(root.encode()).hexdigest()[:16]
        self._private = cache_dir is None and self.remote
        self.folder = Path(cache_dir or _default_cache(), name) if self.remote else Path(root)
        self._cache_bytes = int(cache_gb * 10**9)
        self._downloaders: dict[int, Any] = {}  # by process: connections belong to the one that made them

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_downloaders": {}}

    def fetch(self, name: str) -> Path:
        """Return the local path of a file, downloading it if needed. Processes wait for each other.

        Raises:
            DataError: It cannot be had.
        """
        path = self.folder / name
        if self._private:
            _make_private(self.folder.parent)
        if path.is_file():
            if self.remote:
                with suppress(OSError):  # gone by now, or another user's
                    os.utime(path)  # used lately
            return path
        if not self.remote:
            raise DataError(f"{path} is missing")
        from filelock import FileLock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f".{name}.fetch").acquire()
        except OSError as error:
            raise DataError(
                f"{self.root} cannot be cached in {self.folder} ({error.strerror or error}); set `cache_dir` to a "
                "folder that can be written to"
            ) from error
        with lock:
            if not path.is_file():
                try:
                    self._connection().download_file(f"{self.root}/{name}", str(path))
                except Exception as error:  # each storage has errors of its own
                    raise DataError(f"{self.root}/{name} cannot be fetched: {error}") from error
        if not path.is_file():
            raise DataError(f"{self.root}/{name} cannot be fetched")
        return path

    def size(self, name: str, default: int) -> int:
        """Return the size of a file in bytes, or ``default`` if the file is not fetched yet."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return default

    def discard(self, first: Sequence[str], last: Sequence[str]) -> None:
        """Remove fetched files until the cache is within its limit; remove nothing from a local folder.

        Args:
            first: Files to remove before all others, in this order.
            last: Files to remove next, the longest unused first.
        """
        if not self.remote:
            return
        sizes, used = {}, {}
        for path in list(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another process or thread removes files, too
                if path.is_file():
                    status = path.stat()
                    sizes[path.name], used[path.name] = status.st_size, status.st_mtime_ns
        excess = sum(sizes.values()) - self._cache_bytes
        for name in (*first, *sorted(last, key=lambda name: used.get(name, 0))):
            if excess <= 0:
                return
            if name in sizes:
                (self.folder / name).unlink(missing_ok=True)
                excess -= sizes.pop(name)

    def _connection(self) -> Any:
        process = os.getpid()
        if process not in self._downloaders:
            try:
                from litdata.streaming.downloader import get_downloader
            except ModuleNotFoundError:
                raise ModuleNotFoundError(
                    f"to stream {self.root}, install LitData: pip install 'acnet-pl[streaming]'"
                ) from None
            self._downloaders = {process: get_downloader(self.root, str(self.folder), [], {})}
        return self._downloaders[process]


def _default_cache() -> Path:
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"acnet_pl-shards{user}")


def _make_private(folder: Path) -> None:
    """Make a folder for this user alone, or raise DataError where another user owns it or could have written to it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    if not hasattr(os, "getuid"):
        return
    status = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & others:
        raise DataError(
            f"the cache {folder} may hold what another user put there: expected a folder of user {os.getuid()} with "
            f"mode 700, got {stat.filemode(status.st_mode)} of user {status.st_uid}; remove it, or set `cache_dir` to "
            "a folder of your own"
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
