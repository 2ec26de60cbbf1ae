"""What an offline run of Weights & Biases would have sent, read back from its log."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(folder: Path, seconds: float = 60) -> list[Any]:
    """The records of a folder offline-run-*, in order, once the last is there: another process writes them."""
    deadline = time.monotonic() + seconds
    while True:
        paths = list(folder.glob("run-*.wandb"))  # which may not be there at first
        found = _read(paths[0]) if paths else []
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{folder} has no log with an end after {seconds} s"
        time.sleep(0.05)


def _read(path: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    return [vars(wandb_internal_pb2)["Record"].FromString(data) for data in _scan(path.read_bytes())]


def history(sent: list[Any]) -> list[dict[str, Any]]:
    """The rows of metrics among the records."""
    rows = [record.history for record in sent if record.HasField("history")]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows]


def _scan(log: bytes) -> Iterator[bytes]:
    """A LevelDB log after W&B's header: blocks of 32 KiB; each piece has a CRC, a length and a kind."""
    assert log[:4] in (b":W&B", b"")
    position, parts = 7, b""
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", log[position + 4 : position + 7])
        position += 7 + length
        if position > len(log):
            return  # not yet written to its end
        parts += log[position - length : position]
        if kind in (1, 4):  # whole, or the last of several
            yield parts
            parts = b""
