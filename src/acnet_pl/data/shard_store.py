"""ShardStore: files of a folder that is local or in object storage, through a cache of limited size."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from acnet_pl.data.errors import DataError

__all__ = ["ShardStore"]


class ShardStore:
    """Files of one folder. Remote ones are fetched by LitData's downloaders, once per machine, into a cache.

    Args:
        root: The folder: a path, or an address that LitData knows (``s3://``, ``gs://``, ``azure://``, ``hf://``,
            ``r2://``; ``local:`` for a mounted folder that is to be cached).
        cache_dir: Where fetched files are kept; the default is below the temporary folder of the machine.
        cache_gb: How much is kept, in 10^9 bytes, before files that were used up are removed.
    """

    def __init__(self, root: str, cache_dir: str | Path | None = None, cache_gb: float = 100) -> None:
        self.root = root
        self.remote = "://" in root or root.startswith("local:")
        name = hashlib.sha256(root.encode()).hexdigest()[:16]
        self.folder = (
            Path(cache_dir or Path(tempfile.gettempdir(), "acnet_pl-shards"), name) if self.remote else Path(root)
        )
        self._cache_bytes = int(cache_gb * 10**9)
        self._downloaders: dict[int, Any] = {}  # by process: connections belong to the one that made them

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_downloaders": {}}

    def fetch(self, name: str) -> Path:
        """The local path of a file, downloaded if it is not there yet. Processes wait for each other.

        Raises:
            DataError: It cannot be had.
        """
        path = self.folder / name
        if path.is_file():
            return path
        if not self.remote:
            raise DataError(f"{path} is missing")
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{name}.fetch"):
            if not path.is_file():
                try:
                    self._connection().download_file(f"{self.root}/{name}", str(path))
                except Exception as error:  # each storage has errors of its own
                    raise DataError(f"{self.root}/{name} cannot be fetched: {error}") from error
        if not path.is_file():
            raise DataError(f"{self.root}/{name} cannot be fetched")
        return path

    def discard(self, names: Iterable[str]) -> None:
        """Remove fetched files, in this order, until the cache is within its limit; of a local folder, nothing."""
        if not self.remote:
            return
        sizes = {}
        for path in list(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another process or thread removes files, too
                if path.is_file():
                    sizes[path.name] = path.stat().st_size
        excess = sum(sizes.values()) - self._cache_bytes
        for name in names:
            if excess <= 0:
                return
            if name in sizes:
                (self.folder / name).unlink(missing_ok=True)
                excess -= sizes[name]

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
