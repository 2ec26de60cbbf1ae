"""Names of the last version: they work once more, and say what they are called now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from acnet_pl import fused_info
from acnet_pl.analysis import Equivalence
from acnet_pl.callbacks import FusedNetwork, LateFold, LateFuse  # type: ignore[deprecated]
from acnet_pl.deploy import save_fused
from acnet_pl.reproduce.settings import decisive_callbacks
from acnet_pl.reproduce.summary_file import read_summary


def test_late_fold() -> None:
    with pytest.warns(DeprecationWarning, match="LateFold is now LateFuse"):
        callback = LateFold(3)  # type: ignore[deprecated]
    assert isinstance(callback, LateFuse)
    assert callback.first_epoch(10) == 3
    old, new = (
        {"trainer": {"callbacks": [{"class_path": f"acnet_pl.callbacks.{name}", "init_args": {"epoch": 0.5}}]}}
        for name in ("LateFold", "LateFuse")
    )
    assert decisive_callbacks(old) == decisive_callbacks(new) == [{"LateFuse": {"epoch": 0.5}}]


@pytest.mark.parametrize(
    ("holder", "former", "name"),
    [
        (FusedNetwork("p", "best", None, 9, 5, 90, 50), "folded", "weights"),
        (FusedNetwork("p", "best", None, 9, 5, 90, 50), "parameters_folded", "parameters_fused"),
        (FusedNetwork("p", "best", None, 9, 5, 90, 50), "macs_folded", "macs_fused"),
        (Equivalence(3, 0.0, 0.0, fused_accuracy=0.5), "folded_accuracy", "fused_accuracy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attributes(holder: Any, former: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{former} is now {name}"):
        assert getattr(holder, former) == getattr(holder, name) is not None


def test_a_summary_of_the_last_version_is_read(tmp_path: Path) -> None:
    fused = {"path": "p", "folded": "last", "parameters_trained": 9, "parameters_folded": 5, "macs_folded": None}
    summary = {"metrics": {}, "fused": fused, "equivalence": {"trained_accuracy": 0.5, "folded_accuracy": 0.5}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    now = {"path": "p", "weights": "last", "parameters_trained": 9, "parameters_fused": 5, "macs_fused": None}
    accuracies = {"trained_accuracy": 0.5, "fused_accuracy": 0.5}
    assert read_summary(tmp_path) == {"metrics": {}, "fused": now, "equivalence": accuracies}


def test_a_fused_file_of_the_last_version_is_read(tmp_path: Path) -> None:
    save_fused(nn.Conv2d(1, 1, 1), tmp_path / "fused.safetensors", {"folded": "best"})
    info = fused_info(tmp_path / "fused.safetensors")
    assert info["weights"] == "best"
    assert "folded" not in info
