"""Read an offline Weights & Biases run back from its transaction log."""

import json

import pytest
from tests import wandb_log
from tests.wandb_log import history

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def records(finished):
    (folder,) = (finished / "wandb").glob("offline-run-*")
    return wandb_log.records(folder)


def test_the_dashboard_pairs_plain_and_acnet(records):
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert run.job_type == "acnet"
    assert run.run_group == "Digits-ResNetCifar-8-projection"
    assert {"a-tag", "acnet"} <= set(run.tags)
    assert run.project == "acnet_pl"


def test_curves_equivalence_and_rotation_are_logged(records):
    keys = {key for row in history(records) for key in row}
    assert {"train/loss", "val/top1", "val/top5", "test/top1", "time/epoch"} <= keys
    assert {"equivalence/max_rel_difference", "equivalence/top1_agreement"} <= keys
    assert {f"rotation/{view}/top1" for view in ("original", "rotate_90", "rotate_180", "flip_up_down")} <= keys
    assert {"fused/parameters_fused", "fused/macs_fused"} <= keys
    assert any(row.get("val/top1") is not None and 0 <= row["val/top1"] <= 1 for row in history(records))


def test_the_whole_configuration_is_logged(records):
    config = {}
    for record in records:
        kind = record.WhichOneof("record_type")
        updates = record.run.config.update if kind == "run" else record.config.update if kind == "config" else []
        for item in updates:
            config["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert config["config"]["trainer"]["max_epochs"] == 2
    assert config["config"]["model"]["backbone"]["init_args"]["depth"] == 8


def test_rotation_table_and_fused_file_are_artifacts(records):
    artifacts = [
        record.request.log_artifact.artifact for record in records if record.WhichOneof("record_type") == "request"
    ]
    artifacts += [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    files = {entry.path for artifact in artifacts for entry in artifact.manifest.contents}
    assert "fused.safetensors" in files
    assert any("rotation" in name for name in files)
