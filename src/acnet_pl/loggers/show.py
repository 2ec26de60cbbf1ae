"""Show numbers, tables, pictures and files in every logger of a trainer: Weights & Biases, TensorBoard, CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from acnet_pl.loggers.csv_text import spreadsheet_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["log_figure", "log_file", "log_scalars", "log_table", "unicode_alone"]


def unicode_alone(value: Any) -> Any:
    r"""Return a value in which bytes of text that are not UTF-8, as names of files may have them, are escaped.

    Args:
        value: Text, or a mapping, list or tuple at any depth; other values are returned as they are.

    Examples:
        >>> unicode_alone({"names": ["cat", "c\udcff"]})
        {'names': ['cat', 'c\\udcff']}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {unicode_alone(key): unicode_alone(item) for key, item in value.items()}
    return [unicode_alone(item) for item in value] if isinstance(value, (list, tuple)) else value


def log_scalars(trainer: Trainer, scalars: Mapping[str, float]) -> None:
    """Log numbers on rank zero outside of the loops, where ``LightningModule.log`` cannot."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=trainer.global_step)
        logger.save()


def log_table(trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Log a table on rank zero: to a CSV logger's folder as ``tables/NAME.csv``, to TensorBoard as text.

    Args:
        trainer: Its loggers are used.
        name: Name of the table; a slash groups.
        columns: Headings.
        rows: Cells.
    """
    columns, rows = unicode_alone(columns), unicode_alone(rows)
    for logger in _on_rank_zero(trainer):
        if isinstance(logger, WandbLogger):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows])
        elif isinstance(logger, TensorBoardLogger):
            cells = [
                [str(column) for column in columns],
                ["---"] * len(columns),
                *([_text(x) for x in row] for row in rows),
            ]
            logger.experiment.add_text(
                name, "\n".join("| " + " | ".join(row) + " |" for row in cells), trainer.global_step
            )
        elif isinstance(logger, CSVLogger):
            with _file(logger, "tables", f"{_flat(name)}.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([columns, *([_cell(cell) for cell in row] for row in rows)])


def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Log a matplotlib figure on rank zero: to a CSV logger's folder as ``pictures/NAME-STEP.png``.

    Args:
        trainer: Its loggers are used.
        name: Name of the figure; a slash groups.
        figure: It is not closed.
    """
    step = trainer.global_step
    for logger in _on_rank_zero(trainer):
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [figure], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, step, close=False)
        elif isinstance(logger, CSVLogger):
            figure.savefig(_file(logger, "pictures", f"{_flat(name)}-{step}.png"))


def log_file(trainer: Trainer, path: Path, name: str, kind: str, about: Mapping[str, Any]) -> None:
    """Log a file on rank zero: to Weights & Biases as a versioned artifact, to TensorBoard as text that names it.

    Args:
        trainer: Its loggers are used.
        path: The file, which stays where it is.
        name: Name of the artifact.
        kind: Its type, such as "model".
        about: Facts about the file.
    """
    for logger in _on_rank_zero(trainer):
        if isinstance(logger, WandbLogger):
            import wandb

            artifact = wandb.Artifact(f"{name}-{logger.experiment.id}", type=kind, metadata=unicode_alone(about))
            artifact.add_file(str(path))
            logger.experiment.log_artifact(artifact)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, f"{kind}: `{path}`", trainer.global_step)


def _on_rank_zero(trainer: Trainer) -> list[Logger]:
    return list(trainer.loggers) if trainer.is_global_zero else []


def _file(logger: CSVLogger, folder: str, name: str) -> Path:
    path = Path(logger.log_dir) / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _flat(name: str) -> str:
    return name.replace("/", "-")


def _cell(cell: Any) -> Any:
    return spreadsheet_text(cell) if isinstance(cell, str) else cell


def _text(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
