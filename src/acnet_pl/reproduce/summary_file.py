"""Read a finished run's ``summary.json``, and check it before its figures are used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acnet_pl.regular_files import read_text

__all__ = ["read_summary"]

# Figures that reports compute with; each is a number if present.
_NUMBERS = {
    "": ("epochs", "seconds_per_epoch", "training_seconds"),
    "equivalence": ("fused_accuracy", "max_rel_difference", "max_abs_difference"),
    "fused": ("parameters_trained", "parameters_fused", "macs_trained", "macs_fused"),
}
_FORMER_NAMES = {  # in runs of earlier versions
    "fused": {"folded": "weights", "parameters_folded": "parameters_fused", "macs_folded": "macs_fused"},
    "equivalence": {"folded_accuracy": "fused_accuracy"},
}
_PARTS = ("metrics", "rotation", "equivalence", "fused", "versions")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the content of summary.json in a run's folder; None if it is missing or damaged."""
    try:
        summary = json.loads(read_text(folder / "summary.json"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(summary, dict):
        return None
    for part, names in _FORMER_NAMES.items():
        if isinstance(values := summary.get(part), dict):
            summary[part] = {names.get(name, name): value for name, value in values.items()}
    return summary if _is_whole(summary) else None


def _is_whole(summary: Mapping[str, Any]) -> bool:
    if "metrics" not in summary or not all(isinstance(summary.get(part, {}), Mapping) for part in _PARTS):
        return False
    figures = [*summary["metrics"].values(), *summary.get("rotation", {}).values()]
    for part, names in _NUMBERS.items():
        values = summary.get(part, {}) if part else summary
        figures += [values[name] for name in names if values.get(name) is not None]
    return all(isinstance(figure, (int, float)) and not isinstance(figure, bool) for figure in figures)
