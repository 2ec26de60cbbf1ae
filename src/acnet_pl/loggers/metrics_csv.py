"""MetricsCSV: Lightning's CSV logger for runs that are killed and continue."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_warn

from acnet_pl.atomic import atomic_path
from acnet_pl.regular_files import check_regular

__all__ = ["MetricsCSV"]


class MetricsCSV(CSVLogger):
    """CSV logger that appends to a run's ``metrics.csv``.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder), name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> _Writer:
        """Return the writer; on ranks other than zero it does nothing."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        assert isinstance(self._experiment, _Writer)
        return self._experiment

    def rows(self) -> int:
        """Write pending rows, and return how many were logged."""
        self.save()
        count: int = self.experiment.count
        return count

    def rewind(self, rows: int) -> None:
        """Keep the rows that were logged before a checkpoint, and drop later ones.

        Raises:
            ValueError: The file is not a table of metrics.
        """
        self.experiment.rewind(rows)


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.count = 0

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics_dict, step)
        self.count += 1

    def rewind(self, rows: int) -> None:
        kept: list[dict[str, Any]] = []
        if self.path.exists():
            check_regular(self.path)
            try:
                with self.path.open(newline="", encoding="utf-8") as file:
                    reader = csv.DictReader(file)
                    kept = list(islice(reader, rows))
                    self.metrics_keys = sorted(reader.fieldnames or [])
                if kept and "step" not in self.metrics_keys:
                    raise ValueError("its first line does not name the columns")
            except (ValueError, csv.Error) as error:  # bytes that are not UTF-8 too
                raise ValueError(
                    f"{self.path} cannot be read as the run's table of metrics ({error}); move it away, and the run "
                    "goes on with a new one"
                ) from error
        if len(kept) < rows:
            rank_zero_warn(f"{self.path} has {len(kept)} of the {rows} rows that were logged before the checkpoint")
        self.metrics, self.count = [], len(kept)
        if kept:
            self._write(kept)
        else:
            self.path.unlink(missing_ok=True)
            self.metrics_keys = []

    def _check_log_dir_exists(self) -> None:
        """Do nothing; Lightning's own method would remove the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with atomic_path(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
