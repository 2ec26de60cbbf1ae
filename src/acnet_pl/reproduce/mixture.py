"""Find what differs among the finished runs of a table besides what it compares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.summary_file import read_summary

__all__ = ["copied", "mixed", "trained_again"]

_UNKNOWN = "unknown"


def mixed(runs: Sequence[RunResult]) -> Iterator[str]:
    """Yield versions, devices, engines, copies of the data and numbers of test images that differ.

    Args:
        runs: The runs; the finished ones count.
    """
    made = [_made(run.summary) for run in runs if run.summary]
    for name in dict.fromkeys(name for one in made for name in one):
        counts = Counter(one.get(name, _UNKNOWN) for one in made)
        if len(counts) > 1:
            yield f"{name}: " + ", ".join(f"{value} ({count} runs)" for value, count in counts.items())


def copied(runs: Sequence[RunResult]) -> Iterator[str]:
    """Yield the runs of different seeds that agree in every figure, as no two trainings do."""
    same: dict[str, list[str]] = {}
    for run in runs:
        curve = run.curve() if run.summary else []
        if run.summary and curve:
            figures = [
                run.planned.run.model,
                run.planned.run.variant,
                run.summary["metrics"],
                run.summary.get("rotation"),
            ]
            key = json.dumps([*figures, [astuple(epoch) for epoch in curve]], sort_keys=True)
            same.setdefault(key, []).append(run.planned.run.name)
    for names in same.values():
        if len(names) > 1:
            yield f"COPIED? {', '.join(names)}: the same figures and curves, which two trainings never have."


def trained_again(runs: Sequence[RunResult]) -> Iterator[str]:
    """Yield the runs of which there is more than one finished training, with figures that differ."""
    for run in runs:
        found = (read_summary(folder) for folder in run.planned.finished_folders())
        own: list[Mapping[str, Any]] = [summary for summary in found if summary]
        own += [run.planned.record.summary] if run.planned.record else []
        if run.record and run.record.remark:
            yield run.record.remark
            continue
        others = {json.dumps(summary["metrics"], sort_keys=True) for summary in own}
        if len(others) > 1:
            from_record = " or in the record" if run.planned.record else ""
            yield (
                f"TRAINED AGAIN. {run.planned.run.name}: {len(others)} finished trainings with these settings in its "
                f"folder{from_record}; the newest folder's figures count. Which one counts must not depend on them."
            )


def _made(summary: Mapping[str, Any]) -> dict[str, str]:
    found = {**summary.get("versions", {}), "engine": str(summary.get("engine", {}).get("name", "fit"))}
    if samples := summary.get("rotation", {}).get("samples"):
        found["test images"] = f"{samples:,.0f}"
    if content := summary.get("data_fingerprint"):
        found["data, by fingerprint"] = content
    return found
