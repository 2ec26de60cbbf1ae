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

from acnet_pl.atomic import atomic_path
from acnet_pl.callbacks._names import check_file_name
from acnet_pl.callbacks.preprocessing import image_info
from acnet_pl.loggers.csv_text import spreadsheet_text

__all__ = ["PredictionWriter"]

_Row = tuple[int, int, list[float]]  # loader, index, probabilities


class PredictionWriter(BasePredictionWriter):
    """Write, for every image of ``predict``, index, predicted class and probabilities of all classes.

    Images of several dataloaders are told apart by the number of their loader, in a first column.

    Args:
        filename: Name of the file in the run's folder.

    Raises:
        ValueError: ``filename`` is no bare name that ends in .csv; or, at the first batch, ``predict_step`` returns
            anything but class probabilities.
    """

    def __init__(self, filename: str = "predictions.csv") -> None:
        super().__init__("batch_and_epoch")
        check_file_name("predictions.filename", filename, ".csv")
        self.filename = filename
        self._rows: list[_Row] = []  # of this process

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
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Store the class probabilities of a batch until the epoch ends."""
        _check_probabilities(prediction)
        # A data module that leaves unreadable images out knows which are there; Lightning knows which were asked for.
        found = getattr(getattr(trainer, "datamodule", None), "batch_indices", None)
        indices = found.tolist() if isinstance(found, Tensor) else batch_indices
        if not indices and len(prediction):  # of an IterableDataset Lightning knows none
            if trainer.world_size > 1:
                raise ValueError(
                    "PredictionWriter cannot number images of an IterableDataset over several processes; use one device"
                )
            first = sum(loader == dataloader_idx for loader, *_ in self._rows)
            indices = range(first, first + len(prediction))
        self._rows += [(dataloader_idx, *row) for row in zip(indices or (), prediction.tolist(), strict=True)]

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
            shares: list[list[_Row]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(shares, rows)
            rows = [row for share in shares for row in share]
        path = Path(trainer.log_dir or trainer.default_root_dir) / self.filename  # which all processes have to ask for
        if not trainer.is_global_zero:
            return
        names = image_info(trainer).get("class_names") or []
        if rows and len(names) != len(rows[0][2]):
            names = [str(number) for number in range(len(rows[0][2]))]
        with (
            atomic_path(path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            several = any(loader for loader, *_ in rows)
            head = ["loader", "index"] if several else ["index"]
            writer.writerow([*head, "predicted", "class", *(f"p({name})" for name in names)])
            for loader, index, probabilities in sorted(rows):
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                where = [loader, index] if several else [index]
                writer.writerow([*where, best, spreadsheet_text(names[best]), *(f"{p:.6g}" for p in probabilities)])
        rank_zero_info(f"Wrote {len(rows)} predictions to {path}")


def _check_probabilities(prediction: Any) -> None:
    """Raise a ValueError for logits, masks, dicts and whatever else is no distribution over classes."""
    if isinstance(prediction, Tensor):
        what = f"a tensor {tuple(prediction.shape)} of {prediction.dtype}"
        if prediction.dim() == 2 and prediction.is_floating_point():
            values = prediction.detach().float()
            if bool((values >= 0).all() and ((values.sum(1) - 1).abs() < 0.02).all()):  # as close as bfloat16 comes
                return
            what += " whose rows are no distributions (NaN, negative, or with another sum than 1)"
    else:
        what = f"a {type(prediction).__name__}"
    raise ValueError(
        "PredictionWriter writes class probabilities (N, classes), but predict_step returned "
        f"{what}; return logits.softmax(dim=1) there, or write it with a BasePredictionWriter of your own"
    )
