"""A run that SIGTERM stopped and that went on is one run of Weights & Biases, with every row once."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def test_a_preempted_run_is_one_run_of_weights_and_biases(mortal: Any, undisturbed: Any, tmp_path: Path) -> None:
    options = ("--wandb.mode", "offline")
    output, _ = mortal.run(tmp_path, *options, death=["told", "acnet_pl.modules:ImageClassifier.training_step", 13])
    assert "Stopped by SIGTERM" in output
    output, _ = mortal.run(tmp_path, *options)
    assert "from last.ckpt" in output
    expected, _ = undisturbed
    (run,) = (tmp_path / "runs" / "mortal").iterdir()
    assert type(expected)(run).fused == expected.fused

    folders = sorted((run / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    first, second = (list(records(folder)) for folder in folders)
    (id_of_first,), (id_of_second,) = ({r.run.run_id for r in sent if r.run.run_id} for sent in (first, second))
    assert id_of_first == id_of_second
    assert [r.exit.exit_code for r in first + second if r.HasField("exit")] == [143, 0]
    assert [any(r.HasField("preempting") for r in sent) for sent in (first, second)] == [True, False]
    rows = [row(r.history) for r in first + second if r.HasField("history")]
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == list(range(1, 33, 2))


def row(history: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}


def records(folder: Path) -> Iterator[Any]:
    """What a process sent, from W&B's log: a header, blocks of 32 KiB, pieces with a CRC, a length and a kind."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    log, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", log[position + 4 : position + 7])
        parts += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield vars(wandb_internal_pb2)["Record"].FromString(parts)
            parts = b""
