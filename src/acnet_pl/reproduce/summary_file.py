"""Read a finished run's ``summary.json``, and check it before its figures are used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acnet_pl.reproduce.json_file import read_json

__all__ = ["checked_summary", "figure_of", "read_summary", "summary_fault"]

# Figures that reports compute with; each is a number from 0 on if present.
_AMOUNTS = {
    "": ("epochs", "seconds_per_epoch", "training_seconds"),
    "rotation": ("samples",),
    "fused": ("parameters_trained", "parameters_fused", "macs_trained", "macs_fused"),
}
_MOST = 1e18  # of an amount
_DIFFERENCES = ("max_rel_difference", "max_abs_difference")
_ACCURACY = re.compile(r"(^|/)top\d+$|agreement$|accuracy$")
_FORMER_NAMES = {  # in runs of earlier versions
    "fused": {"folded": "weights", "parameters_folded": "parameters_fused", "macs_folded": "macs_fused"},
    "equivalence": {"folded_accuracy": "fused_accuracy"},
}
_PARTS = ("metrics", "rotation", "equivalence", "fused", "versions", "engine")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the content of summary.json in a run's folder; None if it is missing or damaged."""
    try:
        return checked_summary(read_json(folder / "summary.json"))
    except (OSError, ValueError):
        return None


def summary_fault(folder: Path) -> str | None:
    """Return what is wrong with summary.json in a run's folder; None if nothing is, or if it is missing."""
    try:
        checked_summary(read_json(folder / "summary.json"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)
    return None


def figure_of(summary: Mapping[str, Any], measure: str, validates_on_test_images: bool) -> float | None:
    """Return a figure of a summary, 0 to 1; the accuracy of a network is that of the fused one in float32.

    Args:
        summary: Result of `checked_summary`.
        measure: Key of a `Measure`.
        validates_on_test_images: Whether validation and test images are the same.
    """
    part, _, name = measure.partition("/")
    value = summary.get(part, {}).get(name)
    if measure == "rotation/original/top1" and "evaluated" not in summary and validates_on_test_images:
        # Written before `test` evaluated in float32, as the equivalence check always has.
        value = summary.get("equivalence", {}).get("fused_accuracy", value)
    return None if value is None else float(value)


def checked_summary(summary: Any) -> dict[str, Any]:
    """Return a summary with the present names, if all is sound that reports use.

    Raises:
        ValueError: Something is not.
    """
    if not isinstance(summary, dict) or "metrics" not in summary:
        raise ValueError("it is no summary of a run: it has no `metrics`")
    for part in _PARTS:
        if not isinstance(values := summary.get(part, {}), dict):
            raise ValueError(f"`{part}` is a {type(values).__name__}, expected names and values")
    for part, names in _FORMER_NAMES.items():
        if part in summary:
            summary[part] = {names.get(name, name): value for name, value in summary[part].items()}
    for name, value in _figures(summary):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"`{name}` is a {type(value).__name__}, expected a number")
        if abs(value) > sys.float_info.max and isinstance(value, int):
            raise ValueError(f"`{name}` is an integer of {value.bit_length()} bits, which is no figure")
        if _ACCURACY.search(name) and not 0 <= value <= 1:
            raise ValueError(f"`{name}` is {value}, expected an accuracy from 0 to 1")
    for name, value in _amounts(summary):
        if not 0 <= value <= _MOST:
            raise ValueError(f"`{name}` is {value}, expected a number from 0 to {_MOST:g}")
    if not isinstance(summary.get("data_fingerprint"), (str, type(None))):
        raise ValueError(f"`data_fingerprint` is a {type(summary['data_fingerprint']).__name__}, expected text")
    for name, value in summary.get("versions", {}).items():
        if not isinstance(value, str):
            raise ValueError(f"`versions/{name}` is a {type(value).__name__}, expected text")
    versions = summary.get("versions", {})
    for text in (summary.get("data_fingerprint") or "", *versions, *versions.values()):
        if not text.isprintable():
            raise ValueError(f"{text!r} in `versions` or `data_fingerprint` is no text that can be printed")
    return summary


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every figure with its name."""
    for part in ("metrics", "rotation"):
        yield from ((f"{part}/{name}", value) for name, value in summary.get(part, {}).items())
    for name, value in summary.get("equivalence", {}).items():
        if value is not None and (name in _DIFFERENCES or _ACCURACY.search(name)):
            yield f"equivalence/{name}", value
    yield from _amounts(summary)


def _amounts(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part, names in _AMOUNTS.items():
        values = summary.get(part, {}) if part else summary
        yield from (
            (f"{part}/{name}" if part else name, values[name]) for name in names if values.get(name) is not None
        )
