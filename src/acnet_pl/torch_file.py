"""Load what `torch.save` wrote: every checksum is verified, nothing is executed, and no more memory is taken."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from acnet_pl.plain_pickle import check_pickle
from acnet_pl.regular_files import check_regular

__all__ = ["load_plain"]

_DEEPEST = 100
_BEGIN = b"PK\x03\x04"
_MORE = 100_000
"""Allowance for small files, in which a few shared texts may be most of the content."""


def load_plain(source: str | Path | IO[bytes], *, former: bool = False) -> Any:
    """Load plain data and tensors to the CPU.

    Args:
        source: A regular file, or an open one.
        former: Take the format before PyTorch 1.6, too, which has no checksums.

    Raises:
        OSError: It cannot be opened, or is no regular file.
        Exception: It is damaged, compressed, asks for code to be run, contains itself, or takes far more memory than
            it has bytes.
    """
    if isinstance(source, (str, Path)):
        check_regular(source)
        with Path(source).open("rb") as file:
            return load_plain(file, former=former)
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    begin = source.read(len(_BEGIN))
    source.seek(0)
    if not size:
        raise ValueError("it is empty")
    if former and begin != _BEGIN:
        for _ in range(5):  # a magic number, two versions, the content, the names of what follows
            check_pickle(source, size)
    else:
        _check_archive(source, size)
    source.seek(0)
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # PyTorch's message tells how to run it
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"it asks for {named[1]} to be called" if named else "its pickle is damaged") from error
    _check_content(content, size)
    return content


def _check_archive(file: IO[bytes], size: int) -> None:
    """Compare every record of the archive with its checksum, which torch.load does not, and check its pickle."""
    begin = file.read(len(_BEGIN))
    if begin != _BEGIN:
        raise ValueError("it does not begin as what torch.save writes")
    if not zipfile.is_zipfile(file):
        raise ValueError("its end is missing")
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("it is compressed, which no checkpoint is")  # and could unpack to any size
        if sum(record.file_size for record in records) > size:
            raise ValueError("its records overlap")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its record {damaged} is corrupt")
        memory = {
            record.filename.lower().partition("/data/")[2]: record.file_size
            for record in records
            if "/data/" in record.filename.lower()
        }
        for record in records:
            if record.filename.lower().endswith("data.pkl"):  # torch does not tell the cases apart
                check_pickle(io.BytesIO(archive.read(record)), size, memory)


def _check_content(content: Any, size: int) -> None:
    """Raise ValueError for content that contains itself, or has more values, without sharing, than the file has bytes.

    What reads it later can so walk over it.
    """
    if _weight(content, set(), {}, size) > size + _MORE:
        raise ValueError("its content shares values so often that it is far larger than the file")


def _weight(value: Any, around: set[int], known: dict[int, int], size: int) -> int:
    """Return the number of values and characters, with everything shared counted each time."""
    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > size:
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is larger than the whole file")
        return 1
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    key = id(value)
    if key in known:
        return known[key]
    if key in around:
        raise ValueError("its content contains itself")
    if len(around) == _DEEPEST:
        raise ValueError(f"its content is nested deeper than {_DEEPEST} levels")
    around.add(key)
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    known[key] = 1 + sum(_weight(part, around, known, size) for part in parts)
    around.remove(key)
    return known[key]
