"""The gains of a grid in an offline run of Weights & Biases: none without number of pairs, interval and seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from scipy.stats import ttest_rel
from tests.wandb_log import records

from acnet_pl.cli import main
from acnet_pl.reproduce.plan import Options, make_plan
from acnet_pl.reproduce.settings import SettingsParser

PLAIN, ACNET = (0.930, 0.936, 0.927), (0.942, 0.945, 0.936)
MEASURE = "rotation/original/top1"


def summary(sent: list[Any]) -> dict[str, Any]:
    """What the dashboard's summary would be at the end."""
    updates = [item for record in sent if record.HasField("summary") for item in record.summary.update]
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


@pytest.mark.filterwarnings("ignore")
def test_every_gain_has_pairs_interval_and_seeds(
    tmp_path: Path, parser: SettingsParser, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    wandb.init(project="p", dir=str(tmp_path / "elsewhere"), settings=wandb.Settings(silent=True)).finish()
    monkeypatch.chdir(tmp_path)
    for run in make_plan(Options(("digits",), ("resnet8",)), parser)["digits"][1]:
        if run.run.variant != "acb_border" or run.run.seed == 0:  # of the border variant a single pair
            fabricate(run, (PLAIN if run.run.variant == "plain" else ACNET)[run.run.seed])
    assert main(["reproduce", "digits", "--models", "resnet8", "--report-only"]) == 0

    (folder,) = tmp_path.glob("runs/reproduce/digits/wandb/*/wandb/offline-run-*")
    sent = records(folder)
    (run,) = [record.run for record in sent if record.HasField("run")][:1]
    assert (run.job_type, run.run_group) == ("summary", "Digits-ResNetCifar-8-projection")
    found = summary(sent)
    assert {name.split("/")[2] for name in found if name.startswith("gain/resnet8/")} == {"acb"}
    test = ttest_rel(ACNET, PLAIN)
    interval = test.confidence_interval(0.95)
    expected = {"points": np.mean(np.subtract(ACNET, PLAIN)), "low": interval.low, "high": interval.high}
    gain = {key: found[f"gain/resnet8/acb/{MEASURE}/{key}"] for key in ("n", "p_holm", *expected)}
    figures = {key: pytest.approx(100 * value) for key, value in expected.items()}
    assert gain == {"n": 3, "p_holm": pytest.approx(test.pvalue), **figures}

    (table,) = folder.glob("files/media/table/gains_*.json")
    content = json.loads(table.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert {row["variant"] for row in rows} == {"acb"}
    points = {row["seed"]: row["gain, points"] for row in rows if row["measure"] == rows[0]["measure"]}
    assert points == {seed: pytest.approx(100 * (ACNET[seed] - PLAIN[seed])) for seed in range(3)}
