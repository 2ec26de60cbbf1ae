"""Take finished runs from records (results.json) of other machines, so that a grid goes on from them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from acnet_pl.config.arguments import Arguments
from acnet_pl.config.errors import UsageError
from acnet_pl.reproduce.contradictions import confirmed, contradictions
from acnet_pl.reproduce.curves import LARGEST, MOST_EPOCHS, EpochFigures
from acnet_pl.reproduce.fixed_plan import FixedPlan, plan_of
from acnet_pl.reproduce.json_file import read_json
from acnet_pl.reproduce.plan import PlannedRun
from acnet_pl.reproduce.settings import IMMATERIAL
from acnet_pl.reproduce.summary_file import checked_summary

__all__ = ["FORMAT", "RecordedRun", "Records", "read_records", "unplanned", "with_records"]

FORMAT = "acnet_pl.results/1"
# What differs from machine to machine, besides options that decide no figure.
_PLACES = {"name", "runs_dir", "resume", "data.root"}
_IMMATERIAL = {name.replace(".init_args", "") for name in IMMATERIAL} | _PLACES


@dataclass(frozen=True)
class RecordedRun:
    """Finished run of a record.

    Attributes:
        file: The record.
        name: The run's name.
        command: The command that trained it.
        folder: Its folder on that machine, as text.
        summary: Content of its summary.json.
        curve: Figures of each epoch.
        remark: That it was trained again, as the record says; None if it was not.
    """

    file: Path
    name: str
    command: tuple[str, ...]
    folder: str
    summary: Mapping[str, Any]
    curve: tuple[EpochFigures, ...]
    remark: str | None = None

    @property
    def figures(self) -> str:
        """Return what was measured, as text to compare; two trainings differ in it."""
        measured = [self.summary.get(part) for part in ("metrics", "rotation", "equivalence", "epochs")]
        return json.dumps([measured, [astuple(epoch) for epoch in self.curve]], sort_keys=True)


@dataclass(frozen=True)
class Records:
    """What records hold.

    Attributes:
        runs: All finished runs by name.
        plans: Seeds and epochs that were fixed there, oldest first.
    """

    runs: Mapping[str, Sequence[RecordedRun]]
    plans: tuple[FixedPlan, ...]


def read_records(files: Sequence[Path]) -> Records:
    """Read the finished runs of results.json files.

    Args:
        files: The files; their figures are checked as those of a summary.json.

    Raises:
        UsageError: A file is missing or is no record.
    """
    runs: dict[str, list[RecordedRun]] = {}
    plans: list[FixedPlan] = []
    for file in files:
        try:
            content = read_json(file)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            for grid in content["grids"].values():
                for found_plan in grid.get("plans", ()):
                    plans += [one for one in _by_variant(found_plan, grid["runs"]) if one not in plans]
                for run in grid["runs"]:
                    if run["summary"]:
                        found = replace(_run(file, run), remark=_trained_again(run["name"], grid))
                        runs.setdefault(found.name, []).append(found)
        except OSError as error:
            raise UsageError(f"--records {file}: {error.strerror or error}") from error
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            if isinstance(error, (TypeError, AttributeError)):
                reason = "it is not laid out as a record"
            raise UsageError(
                f"--records {file}: {reason}; expected a results.json, which `reproduce` writes beside its report"
            ) from error
    return Records(runs, tuple(sorted(plans, key=lambda plan: plan.recorded)))


def with_records(runs: Sequence[PlannedRun], records: Records) -> tuple[list[PlannedRun], list[str]]:
    """Give planned runs what a record has of them.

    Args:
        runs: Planned runs.
        records: Result of `read_records`.

    Returns:
        The runs, and a sentence for the runs of each record that are left out for the same reason: they were trained
        with other options, contradict themselves, or are in the records twice with different figures.
    """
    found: list[PlannedRun] = []
    others: dict[tuple[Path, str], list[str]] = {}
    for planned in runs:
        fitting: list[RecordedRun] = []
        for recorded in records.runs.get(planned.run.name, ()):
            known = confirmed(planned, recorded.summary)
            reasons = _changes(recorded.command[3:], planned.arguments, known)
            reasons = reasons or [*contradictions(planned, recorded.summary)]
            if reasons:
                others.setdefault((recorded.file, "; ".join(reasons)), []).append(recorded.name)
            else:
                fitting.append(recorded)
        if len({one.figures for one in fitting}) > 1:
            files = ", ".join(dict.fromkeys(str(one.file) for one in fitting))
            others.setdefault(
                (fitting[0].file, f"figures that contradict those of the same run in {files}"), []
            ).append(planned.run.name)
            fitting = []
        found.append(replace(planned, record=fitting[0]) if fitting else planned)
    return found, [f"{file}: {_some(names)} with {reasons}" for (file, reasons), names in others.items()]


def unplanned(names: Collection[str], records: Records) -> list[str]:
    """Return a sentence for each record with runs that are not planned, such as those of a variant since renamed.

    Args:
        names: Names of all planned runs.
        records: Result of `read_records`.
    """
    others: dict[Path, list[str]] = {}
    for name, recorded in records.runs.items():
        for file in dict.fromkeys(one.file for one in recorded if name not in names):
            others.setdefault(file, []).append(name)
    return [f"{file}: {_some(found)}, which this command does not plan" for file, found in others.items()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _by_variant(found: Any, runs: Sequence[Mapping[str, Any]]) -> list[FixedPlan]:
    """Return a plan; one of the first format, which names no variants, for each of the record's if it held for these.

    Not if runs had finished: of which variants they were is not recorded.
    """
    plan = plan_of(found)
    variants = dict.fromkeys(run["variant"] for run in runs if run["model"] == plan.model)
    if plan.variant or plan.finished or found.get("runs") != len(plan.seeds) * len(variants):
        return [plan]
    return [replace(plan, variant=variant) for variant in variants]


def _trained_again(name: str, grid: Mapping[str, Any]) -> str | None:
    start = f"TRAINED AGAIN. {name}:"
    return next((remark for remark in grid.get("mixed") or () if str(remark).startswith(start)), None)


def _run(file: Path, run: Mapping[str, Any]) -> RecordedRun:
    words = run["command"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in [run["name"], *words]):
        raise ValueError("the `command` of a run is not a list of words")
    return RecordedRun(
        file,
        run["name"],
        tuple(words),
        str(run["folder"]),
        checked_summary(run["summary"]),
        tuple(map(_epoch, run.get("curve", ()))),
    )


def _epoch(figures: Mapping[str, Any]) -> EpochFigures:
    """Return an epoch of a record; a name that this version does not know is left out."""
    known = {field.name for field in fields(EpochFigures)}
    own = {name: value for name, value in figures.items() if name in known}
    for name, value in own.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"`{name}` of an epoch is a {type(value).__name__}, expected a number")
        if value is not None and LARGEST < abs(value) != math.inf:
            raise ValueError(f"`{name}` of an epoch is beyond {LARGEST:g}, expected a figure")
    if not isinstance(own.get("epoch"), int) or not 0 < own["epoch"] <= MOST_EPOCHS:
        raise ValueError(f"an epoch has no number from 1 to {MOST_EPOCHS:,}")
    return EpochFigures(**own)


def _changes(old: Sequence[str], new: Sequence[str], known: Collection[str]) -> list[str]:
    """Return options that decide figures and differ, in words, but for those that are known to be alike."""
    was, now = _options(old), _options(new)
    return [
        f"--{name} {was.get(name, 'not given')} instead of {now.get(name, 'the default')}"
        for name in (was | now)
        if was.get(name) != now.get(name) and name not in known and name.partition(".")[0] != "wandb"
    ]


def _options(words: Sequence[str]) -> dict[str, str]:
    """Return the last value of each option; of lists that `+=` extends, each item with its own options."""
    arguments, options = Arguments(words), dict[str, str]()
    items: Counter[str] = Counter()
    for option in arguments.options:
        if option.name in _IMMATERIAL:
            continue
        items[option.name] += option.typed.endswith("+")
        within = [name for name, count in items.items() if count and f"{option.name}.".startswith(f"{name}.")]
        options[option.name + "".join(f" (item {items[name]})" for name in within)] = str(option.value)
    return options | {"config": " ".join(map(_below_experiments, arguments.configs))}


def _below_experiments(path: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    last = max((index for index, part in enumerate(parts) if part == "experiments"), default=-1)
    return "/".join(parts[last + 1 :])
