"""Numbers, tables, pictures and files are shown in every logger alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tests import wandb_log
from tests.people import Own, OwnLayers, OwnSegmentation, loader, trainer

from acnet_pl.callbacks import ConfusionMatrix, FuseOnFitEnd, KernelMagnitude, LearningRate, RotationRobustness
from acnet_pl.loggers import MetricsCSV, RunWandbLogger

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*exists and is not empty")


def run(folder: Path, logger: Logger, kind: type[Own] = Own) -> tuple[Own, ConfusionMatrix]:
    torch.manual_seed(0)
    model, confusion = kind(), ConfusionMatrix()
    watch = [KernelMagnitude(1), LearningRate(), FuseOnFitEnd(), confusion]
    if kind is not OwnSegmentation:
        watch.append(RotationRobustness())
    done = trainer(folder, *watch, logger=logger, max_epochs=1)
    done.fit(model, loader(kind), loader(kind))
    done.test(model, loader(kind), verbose=False)
    return model, confusion


def expected_confusion(model: Any) -> torch.Tensor:
    counts = torch.zeros(3, 3, dtype=torch.int64)
    model.eval()
    for images, labels in loader(Own):
        with torch.no_grad():
            guesses = (model.model if hasattr(model, "model") else model)(images).argmax(1)
        for label, guess in zip(labels.tolist(), guesses.tolist(), strict=True):
            counts[label, guess] += 1
    return counts


@pytest.mark.parametrize("kind", [Own, OwnLayers])
@pytest.mark.parametrize("which", [MetricsCSV, CSVLogger])
def test_csv(which: Any, kind: type[Own], tmp_path: Path) -> None:
    logger = which(tmp_path)
    model, confusion = run(tmp_path, logger, kind)
    counts = expected_confusion(model)
    assert confusion.result is not None
    assert torch.equal(confusion.result, counts)
    folder = Path(logger.log_dir)
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {"kernels-magnitude-2.png", "test-confusion-2.png", "test-pictures-2.png"}
    with (folder / "tables" / "rotation.csv").open() as file:
        rows = {row["images"]: float(row["top1"]) for row in csv.DictReader(file)}
    assert list(rows) == ["original", "rotate_90", "rotate_180", "flip_up_down"]
    assert rows["original"] == pytest.approx((counts.diagonal().sum() / counts.sum()).item())
    with (folder / "tables" / "test-confused.csv").open() as file:
        confused = {(int(row["class"]), int(row["predicted"])): int(row["images"]) for row in csv.DictReader(file)}
    off = {(i, j): int(counts[i, j]) for i in range(3) for j in range(3) if i != j and counts[i, j]}
    assert confused == off
    with (folder / "metrics.csv").open() as file:
        assert [float(row["lr"]) for row in csv.DictReader(file) if row.get("lr")] == [0.1, 0.1]
    assert (folder / "fused.safetensors").is_file()


def test_networks_that_classify_nothing_have_no_confusion(tmp_path: Path) -> None:
    _, confusion = run(tmp_path, MetricsCSV(tmp_path), OwnSegmentation)
    assert confusion.result is None
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["kernels-magnitude-2.png"]


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"kernels/magnitude", "test/confusion", "test/pictures"}
    assert {"lr", "val_loss", "kernels/skeleton", "rotation/original/top1"} <= set(tags["scalars"])
    assert {"rotation/text_summary", "test/confused/text_summary", "fused/text_summary"} <= set(tags["tensors"])
    (table,) = events.Tensors("rotation/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| images | top1 |"
    assert len(text.splitlines()) == 6


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases(tmp_path: Path) -> None:
    import wandb

    logger = RunWandbLogger(project="p", save_dir=str(tmp_path), offline=True)
    logger.log_hyperparams({"_instantiator": "x", "depth": 8})
    run(tmp_path, logger)
    wandb.finish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    sent = wandb_log.records(folder)
    keys = {key for row in wandb_log.history(sent) for key in row}
    for key in ("lr", "kernels/magnitude", "test/confusion", "test/pictures", "test/confused", "rotation"):
        assert any(name == key or name.startswith(f"{key}/") for name in keys), key
    metrics = {
        record.metric.name or record.metric.glob_name: record.metric for record in sent if record.HasField("metric")
    }
    assert metrics["val/top1"].summary.max
    assert metrics["val/*"].step_metric == "epoch"
    names = set()
    for record in sent:
        kind = record.WhichOneof("record_type")
        update = record.run.config.update if kind == "run" else record.config.update if kind == "config" else []
        names |= {item.key for item in update}
        names |= {key for item in update if not item.key for key in item.nested_key}
        names |= {key for item in update for key in _keys(item.value_json)}
    assert "depth" in names
    assert "_instantiator" not in names


def _keys(text: str) -> set[str]:
    value = json.loads(text)
    return set(value) if isinstance(value, dict) else set()
