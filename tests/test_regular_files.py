from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from acnet_pl import ImageClassifier
from acnet_pl.checkpoint import read_checkpoint
from acnet_pl.cli.commands import predict
from acnet_pl.cli.predictor import load_predictor
from acnet_pl.cli.trained import real_images
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import content_of, read_config
from acnet_pl.data.cifar_folders import CIFARFolders
from acnet_pl.data.class_folders import FileSplit
from acnet_pl.data.shard_store import ShardStore
from acnet_pl.data.shards import _json
from acnet_pl.deploy import fused_info, load_fused
from acnet_pl.loggers.metrics_csv import MetricsCSV
from acnet_pl.modules.untrusted import check_configuration
from acnet_pl.regular_files import check_regular, read_text
from acnet_pl.reproduce.curves import read_curve
from acnet_pl.reproduce.fixed_plan import read_plans
from acnet_pl.reproduce.pruning import stored_pruning
from acnet_pl.reproduce.summary_file import read_summary
from acnet_pl.torch_file import load_plain

KINDS = {"pipe": "a named pipe", "zeros": "a device"}


@pytest.fixture(autouse=True)
def _within_seconds() -> Iterator[None]:
    """A test that waits for a pipe, or reads a device, fails."""

    def late(*_: object) -> None:
        raise TimeoutError("it was opened")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make(path: Path, kind: str) -> Path:
    """Put a pipe, or a link to a device without end, under a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("file", check_regular),
        ("file", read_text),
        ("last.ckpt", load_plain),
        ("last.ckpt", read_checkpoint),
        ("last.ckpt", ImageClassifier.load_from_checkpoint),
        ("last.ckpt", lambda path: load_predictor(path, "cpu")),
        ("fused.safetensors", fused_info),
        ("fused.safetensors", load_fused),
        ("model.onnx", lambda path: load_predictor(path, "cpu")),
        ("config.yaml", lambda path: read_config(str(path))),
        ("config.yaml", lambda path: check_configuration(path, {})),
        ("plan.json", lambda path: read_plans(path.parent)),
        ("metrics.csv", lambda path: MetricsCSV(path.parent).rewind(1)),
        ("index.json", lambda path: _json(ShardStore(str(path.parent)), path.name)),
        ("a.png", lambda path: real_images(path.parent, 8, {})),
        ("train/a/1.png", lambda path: CIFARFolders(path.parents[2], 1, (32, 32))._decode(path)),
    ],
)
def test_what_is_no_file_is_an_error_that_names_it(
    name: str, read: Callable[[Path], Any], kind: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "folder" / name, kind)
    with pytest.raises((OSError, ValueError, UsageError), match=f"{name}.*({KINDS[kind]}|missing)"):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_counts_as_missing_where_that_is_no_error(kind: str, tmp_path: Path) -> None:
    assert content_of(make(tmp_path / "config.yaml", kind)) == {}
    assert read_summary(make(tmp_path / "summary.json", kind).parent) is None
    assert stored_pruning(make(tmp_path / "pruning.json", kind).parent, 1) == []
    assert read_curve(make(tmp_path / "metrics.csv", kind), 1) == []
    photo = make(tmp_path / "a.png", kind)
    assert len(FileSplit(tmp_path, ["a.png"], torch.zeros(1, dtype=torch.int64)).read(0)[0]) == 0
    assert KINDS[kind] in str(predict._read(None, [photo], 0))  # type: ignore[arg-type]  # its reason


def test_a_text_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(b"a\r\nb\rc")
    assert read_text(path, most=6) == "a\nb\nc"
    with pytest.raises(OSError, match=r"summary\.json: it is larger than"):
        read_text(path, most=5)
