"""Write ``summary.json`` to a run's folder, and show a short table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table

from acnet_pl.analysis.rotation import TRANSFORMS
from acnet_pl.atomic import atomic_path
from acnet_pl.callbacks import EpochTimer, EquivalenceCheck, FuseOnFitEnd, RotationRobustness
from acnet_pl.cli.loggers import run_name
from acnet_pl.config.files import run_config
from acnet_pl.config.run_folder import MARKER
from acnet_pl.data.fingerprint import fingerprint
from acnet_pl.modules import ImageClassifier
from acnet_pl.provenance import EVALUATED, versions

__all__ = ["comparison", "metrics_table", "no_figures", "write_summary"]


def write_summary(
    folder: Path,
    model: ImageClassifier,
    trainer: Trainer,
    figures: Mapping[str, float],
    missing: Mapping[str, str] | None = None,
) -> Path:
    """Write ``summary.json`` to the run's folder and show it as a table.

    Args:
        folder: The run's folder.
        model: The trained module.
        trainer: The trainer, with acnet_pl's callbacks.
        figures: Results of ``validate`` and ``test``.
        missing: Reasons, by the name of an evaluation that could not be done.
    """
    summary: dict[str, Any] = {
        "folder": str(folder),
        "command": sys.orig_argv[1:],
        "backbone": model.hparams["backbone"],
        "conv": model.hparams["conv"],
        "epochs": trainer.current_epoch,
        "evaluated": EVALUATED,
        "metrics": {name: value for name, value in figures.items() if not name.startswith("equivalence/")},
        "versions": versions(),
    }
    if "test" not in (missing or {}):
        summary["data_fingerprint"] = fingerprint(trainer.datamodule)  # type: ignore[attr-defined]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EquivalenceCheck) and callback.result is not None:
            summary["equivalence"] = callback.result.as_dict()
        elif isinstance(callback, RotationRobustness) and callback.result is not None:
            summary["rotation"] = callback.result.as_dict()
        elif isinstance(callback, FuseOnFitEnd) and callback.result is not None:
            summary["fused"] = asdict(callback.result)
        elif isinstance(callback, EpochTimer) and callback.seconds:
            summary["seconds_per_epoch"] = median(callback.seconds)
            summary["training_seconds"] = sum(callback.seconds)
    if missing:
        summary["missing"] = dict(missing)
    path = folder / "summary.json"
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n")
    console = Console(markup=False, emoji=False)
    # Not the name of a folder: a run may be copied elsewhere and resumed there.
    name = run_config(folder).get("name") or run_name(model.hparams)
    console.print(comparison({str(name): summary}))
    for name, reason in (missing or {}).items():
        console.print(f"No figures of the {name}: {reason}", soft_wrap=True, highlight=False)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if _is_result(file))
    console.print(f"Files in {folder}:\n  {', '.join(files)}", soft_wrap=True, highlight=False)
    return path


def metrics_table(figures: Mapping[str, Any]) -> Table:
    """Return a table of logged figures: accuracies in percent, all others with four digits."""
    table = Table("metric", "value", title_justify="left")
    for name, figure in figures.items():
        is_accuracy = name.rpartition("/")[2] in ("top1", "top5") or name.endswith("agreement")
        table.add_row(name, format(float(figure), ".2%" if is_accuracy else ".4g"))
    return table


def no_figures(command: str) -> str:
    """Return what is said where `validate` or `test` had no batches."""
    name, option = {"validate": ("validation", "val")}.get(command, (command, command))
    return f"No figures of the {name}: there were no batches (--trainer.limit_{option}_batches)"


def comparison(summaries: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
    """Return a table of summaries side by side: accuracy, equivalence, rotation, size.

    Args:
        summaries: Summaries that `write_summary` wrote, by the heading of their column.
        columns: Headings in order; empty is the order of ``summaries``.
    """
    names = list(columns or summaries)
    table = Table("", *names, title="Result", title_justify="left")

    def add(label: str, form: str, *keys: str) -> None:
        values = [_lookup(summaries[name], keys) for name in names]
        if any(value is not None for value in values):
            table.add_row(label, *("-" if value is None else format(value, form) for value in values))

    add("test images", ",", "rotation", "samples")
    add("test accuracy, trained", ".2%", "metrics", "test/top1")
    add("test accuracy, fused", ".2%", "rotation", "original/top1")
    for transform in list(TRANSFORMS)[1:]:
        add(f"  fused, {transform.replace('_', ' ')}", ".2%", "rotation", f"{transform}/top1")
    add("max |trained - fused|", ".1e", "equivalence", "max_abs_difference")
    add("  relative", ".1e", "equivalence", "max_rel_difference")
    for key, title in (("parameters", "parameters"), ("macs", "multiply-accumulates")):
        add(f"{title}, trained", ",", "fused", f"{key}_trained")
        add(f"{title}, fused", ",", "fused", f"{key}_fused")
    add("seconds per epoch", ".2f", "seconds_per_epoch")
    return table


def _lookup(summary: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = summary
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _is_result(file: Path) -> bool:
    return file.is_file() and "wandb" not in file.parts and file.name != MARKER
