"""PredictionWriter: write class probabilities of ``predict`` as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from acnet_pl.callbacks.preprocessing import image_info
from acnet_pl.loggers.csv_text import spreadsheet_text

__all__ = ["PredictionWriter"]


class PredictionWriter(BasePredictionWriter):
    """Write, for every image of ``predict``, index, predicted class and probabilities of all classes.

    Args:
        filename: Name of the file in the run's folder.
    """

    def __init__(self, filename: str = "predictions.csv") -> None:
        super().__init__("batch_and_epoch")
        self.filename = filename
        self._rows: list[tuple[int, list[float]]] = []  # of this process

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier predictions."""
        self._rows = []
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "batch_indices"):
            data.batch_indices = None  # of an earlier loop

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the probabilities of a batch."""
        # A data module that leaves unreadable images out knows which are there; Lightning knows which were asked for.
        found = getattr(getattr(trainer, "datamodule", None), "batch_indices", None)
        indices = found.tolist() if isinstance(found, Tensor) else batch_indices or ()
        self._rows += zip(indices, prediction.tolist(), strict=True)

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather the predictions of all processes and write them on rank zero, sorted by index."""
        rows = self._rows
        if dist.is_available() and dist.is_initialized():
            shares: list[list[tuple[int, list[float]]]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(shares, rows)
            rows = [row for share in shares for row in share]
        path = Path(trainer.log_dir or trainer.default_root_dir) / self.filename  # which all processes have to ask for
        if not trainer.is_global_zero:
            return
        names = image_info(trainer).get("class_names") or [str(i) for i in range(len(rows[0][1]) if rows else 0)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "predicted", "class", *(f"p({name})" for name in names)])
            for index, probabilities in sorted(rows):
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                writer.writerow([index, best, spreadsheet_text(names[best]), *(f"{p:.6g}" for p in probabilities)])
        rank_zero_info(f"Wrote {len(rows)} predictions to {path}")
