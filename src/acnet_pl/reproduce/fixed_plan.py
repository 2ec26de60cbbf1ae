"""Record seeds and epochs before the first run, so that a report shows later changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from acnet_pl.atomic import atomic_path
from acnet_pl.reproduce.grid import Grid
from acnet_pl.reproduce.json_file import read_json
from acnet_pl.reproduce.plan import PlannedRun

__all__ = ["FixedPlan", "fix_plan", "plan_of", "read_plans", "remarks"]

_FORMAT = "acnet_pl.plan/1"
_TIME = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True)
class FixedPlan:
    """Recorded seeds and epochs of one network.

    Attributes:
        grid: Name of the grid.
        model: Key of the network.
        recipe: Name of the recipe.
        epochs: Epochs of each run.
        settings: Settings other than the recipe's, as text.
        seeds: The seeds.
        recorded: When, UTC.
        finished: Runs of this network with these settings that were finished at that time.
        runs: Runs planned.
    """

    grid: str
    model: str
    recipe: str
    epochs: int
    settings: str
    seeds: tuple[int, ...]
    recorded: str
    finished: int
    runs: int

    def is_of(self, other: FixedPlan) -> bool:
        """Return True if both are of one network under the same settings."""
        names = ("grid", "model", "recipe", "epochs", "settings")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def fix_plan(
    output: Path, plan: Mapping[str, tuple[Grid, Sequence[PlannedRun]]], known: Sequence[FixedPlan] = ()
) -> None:
    """Record the plan in the folder of the report; what is recorded already stays.

    Args:
        output: The report's folder.
        plan: Grids and their runs.
        known: What was recorded on other machines.
    """
    recorded = read_plans(output, known)
    new = [one for one in _asked(plan) if not any(old.is_of(one) and {*one.seeds} <= {*old.seeds} for old in recorded)]
    if new or recorded != read_plans(output):
        content = {"format": _FORMAT, "plans": [asdict(one) for one in (*recorded, *new)]}
        output.mkdir(parents=True, exist_ok=True)
        with atomic_path(output / "plan.json") as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_plans(output: Path, known: Sequence[FixedPlan] = ()) -> list[FixedPlan]:
    """Return the recorded plans, oldest first.

    Args:
        output: The report's folder.
        known: What was recorded on other machines.

    Raises:
        ValueError: The file is damaged.
    """
    path = output / "plan.json"
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            found = content.get("format") if isinstance(content, dict) else content
            raise ValueError(f"its format is {str(found)[:40]!r}, expected {_FORMAT!r}")
        if not isinstance(content.get("plans"), list):
            raise ValueError("it has no list of `plans`")
        return _in_order([plan_of(one) for one in content["plans"]], known)
    except FileNotFoundError:
        return _in_order([], known)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is no record of seeds and epochs ({error}); move it away to begin a new one"
        ) from error


def _in_order(own: Sequence[FixedPlan], known: Sequence[FixedPlan]) -> list[FixedPlan]:
    """Return plans of several machines, each once, oldest first."""
    return sorted(dict.fromkeys([*own, *known]), key=lambda plan: plan.recorded) if known else [*own]


def plan_of(found: Any) -> FixedPlan:
    """Return a recorded plan, if all of its fields are what `fix_plan` writes.

    Raises:
        ValueError: They are not.
    """
    names = [field.name for field in fields(FixedPlan)]
    if not isinstance(found, dict) or {*found} != {*names}:
        raise ValueError(f"a plan is {str(found)[:40]!r}, expected {', '.join(names)}")
    for name, value in found.items():
        if name == "seeds":
            is_sound = isinstance(value, list) and value and all(type(seed) is int for seed in value)
            is_sound, expected = is_sound and len({*value}) == len(value), "a list of integers that differ"
        elif name in ("epochs", "finished", "runs"):
            is_sound, expected = type(value) is int and value >= 0, "an integer from 0"
        elif name == "recorded":
            is_sound, expected = isinstance(value, str) and _is_time(value), "a time such as 2026-01-31 10:00 UTC"
        else:
            is_sound, expected = isinstance(value, str), "text"
        if not is_sound:
            raise ValueError(f"`{name}` is {str(value)[:40]!r}, expected {expected}")
    return FixedPlan(**{**found, "seeds": tuple(found["seeds"])})


def _is_time(text: str) -> bool:
    try:
        return datetime.strptime(text, _TIME).strftime(_TIME) == text  # dates are compared as text
    except ValueError:
        return False


def remarks(recorded: Sequence[FixedPlan], grid: Grid, runs: Sequence[PlannedRun]) -> list[str]:
    """Return when seeds and epochs were fixed, in one sentence per network.

    Args:
        recorded: Result of `read_plans`.
        grid: The grid.
        runs: The runs that are reported.

    Returns:
        A sentence for each network.
    """
    said = []
    titles = {model.key: model.title for model in grid.models}
    for asked in _asked({grid.name: (grid, runs)}):
        finished = {run.run.seed for run in runs if run.run.model == asked.model and run.state() == "finished"}
        title, own = titles[asked.model], [one for one in recorded if one.is_of(asked)]
        if not own:
            said.append(f"{title}: the number of seeds and epochs was not recorded before the first run.")
            continue
        first, seeds = own[0], {*asked.seeds}
        length = f"{first.epochs} epoch{'' if first.epochs == 1 else 's'}"
        when = "before any run had finished" if not first.finished else f"when {first.finished} runs had finished"
        said.append(f"{title}: {_numbers(first.seeds)}, {length}, fixed on {first.recorded} {when}.")
        for later in own[1:]:
            added = sorted({*later.seeds} - {*first.seeds})
            if added and seeds & {*added}:
                said.append(
                    f"{title}: MIXED. {_numbers(added)} added on {later.recorded}, when {later.finished} runs had "
                    "finished; interval and p do not allow for a look at the figures in between."
                )
        if unrecorded := finished - {seed for one in own for seed in one.seeds}:
            said.append(
                f"{title}: MIXED. {_numbers(sorted(unrecorded))} added later, in no recorded plan; interval and p do "
                "not allow for a look at the figures in between."
            )
        if missing := {*first.seeds} - seeds:
            said.append(f"{title}: MIXED. {_numbers(sorted(missing))} of the fixed ones are left out here.")
        others = {one.epochs for one in recorded if (one.grid, one.model) == (asked.grid, asked.model)} - {asked.epochs}
        if others:
            said.append(f"{title}: also begun with {', '.join(map(str, sorted(others)))} epochs.")
    return said


def _asked(plan: Mapping[str, tuple[Grid, Sequence[PlannedRun]]]) -> list[FixedPlan]:
    now = datetime.now(timezone.utc).strftime(_TIME)
    asked = []
    for name, (grid, runs) in plan.items():
        for model in grid.models:
            own = [run for run in runs if run.run.model == model.key]
            if own:
                changed = {key: new for key, (_, new) in own[0].departures.items() if key != "data.init_args.root"}
                settings = json.dumps([own[0].run.options, changed], sort_keys=True, default=str)
                seeds = tuple(sorted({run.run.seed for run in own}))
                finished = sum(run.state() == "finished" for run in own)
                asked.append(
                    FixedPlan(name, model.key, own[0].recipe, own[0].epochs, settings, seeds, now, finished, len(own))
                )
    return asked


def _numbers(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]}"
