"""Record seeds and epochs before the first run, so that a report shows later changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from acnet_pl.atomic import atomic_path
from acnet_pl.reproduce.grid import Grid
from acnet_pl.reproduce.json_file import read_json
from acnet_pl.reproduce.plan import PlannedRun

__all__ = ["FixedPlan", "fix_plan", "is_amiss", "plan_of", "read_plans", "remarks"]

_FORMAT = "acnet_pl.plan/2"
_WITHOUT_VARIANTS = "acnet_pl.plan/1"
_NETWORK = ("grid", "model", "recipe", "epochs", "settings")
_TIME = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True)
class FixedPlan:
    """Recorded seeds and epochs of one variant of a network.

    Attributes:
        grid: Name of the grid.
        model: Key of the network.
        variant: Key of the variant; "" in the first format, whose plans name none and hold for all.
        recipe: Name of the recipe.
        epochs: Epochs of each run.
        settings: Settings other than the recipe's, as text.
        seeds: The seeds.
        recorded: When, UTC.
        finished: These runs that were finished at that time; in the first format, those of the network.
    """

    grid: str
    model: str
    variant: str
    recipe: str
    epochs: int
    settings: str
    seeds: tuple[int, ...]
    recorded: str
    finished: int

    def is_of(self, other: FixedPlan, names: Sequence[str] = (*_NETWORK, "variant")) -> bool:
        """Return True if both are of one variant under the same settings."""
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
    new = [
        one
        for one in _asked(plan)
        if not any(_holds_for(old, one) and {*one.seeds} <= {*old.seeds} for old in recorded)
    ]
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
        if not isinstance(content, dict) or content.get("format") not in (_FORMAT, _WITHOUT_VARIANTS):
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
    if isinstance(found, dict) and "runs" in found and "variant" not in found:  # the first format
        found = {name: value for name, value in {**found, "variant": ""}.items() if name != "runs"}
    if not isinstance(found, dict) or {*found} != {*names}:
        raise ValueError(f"a plan is {str(found)[:40]!r}, expected {', '.join(names)}")
    for name, value in found.items():
        if name == "seeds":
            is_sound = isinstance(value, list) and value and all(type(seed) is int for seed in value)
            is_sound, expected = is_sound and len({*value}) == len(value), "a list of integers that differ"
        elif name in ("epochs", "finished"):
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
    """Return when seeds and epochs were fixed, and what of it was changed.

    Args:
        recorded: Result of `read_plans`.
        grid: The grid.
        runs: The runs that are reported.

    Returns:
        Sentences on each network; variants of which the same holds share one.
    """
    networks = {model.key: model.title for model in grid.models}
    variants = {variant.key: variant.title for variant in grid.variants}
    said: dict[tuple[str, str], list[str]] = {}
    for asked in _asked({grid.name: (grid, runs)}):
        finished = {
            run.run.seed
            for run in runs
            if (run.run.model, run.run.variant) == (asked.model, asked.variant) and run.state() == "finished"
        }
        others_finished = any(run.run.model == asked.model and run.state() == "finished" for run in runs)
        for sentence in _remarks_on(asked, recorded, finished, others_finished):
            said.setdefault((asked.model, sentence), []).append(variants[asked.variant])
    for model, sentence in _left_out(recorded, grid, runs):
        said[model, sentence] = []
    of_network = {model: [v for m, v in _pairs(runs) if m == model] for model in networks}
    return [
        f"{networks[model]}{', ' + _listed(titles) if 0 < len(titles) < len(of_network[model]) else ''}: {sentence}"
        for (model, sentence), titles in said.items()
    ]


def _left_out(recorded: Sequence[FixedPlan], grid: Grid, runs: Sequence[PlannedRun]) -> Iterator[tuple[str, str]]:
    """Yield network and sentence for the variants of the plan that are not reported, which p does not count."""
    asked = _asked({grid.name: (grid, runs)})
    for network in {one.model: one for one in asked}.values():
        planned = [one.variant for one in recorded if one.variant and one.is_of(network, _NETWORK)]
        own = {one.variant for one in asked if one.model == network.model}
        if others := [variant for variant in dict.fromkeys(planned) if variant not in own]:
            sentence = f"MIXED. {', '.join(others)} planned too, and left out here; p is adjusted for the others alone."
            yield network.model, sentence


def is_amiss(remark: str) -> bool:
    """Return True if a remark says that not all was fixed beforehand, or that it was not kept to."""
    return any(mark in remark for mark in ("LATE", "MIXED", "UNFINISHED", "ALSO PLANNED", "not recorded"))


def _remarks_on(
    asked: FixedPlan, recorded: Sequence[FixedPlan], finished: set[int], others_finished: bool
) -> Iterator[str]:
    """Yield what was fixed of one variant, and what of it was changed."""
    own = [one for one in recorded if _holds_for(one, asked)]
    if not own:
        yield "the number of seeds and epochs was not recorded before the first run."
        return
    first, planned, since = own[0], {*own[0].seeds}, own[0].recorded
    unseen = 1 + next((index for index, later in enumerate(own[1:]) if later.finished), len(own) - 1)
    for later in own[1:unseen]:  # nothing was there to look at
        since = since if planned >= {*later.seeds} else later.recorded
        planned |= {*later.seeds}
    length = f"{first.epochs} epoch{'' if first.epochs == 1 else 's'}"
    late = "LATE. " if first.finished else ""
    yield f"{late}{_numbers(sorted(planned))}, {length}, fixed on {since} {_when(first)}."
    for later in own[unseen:]:
        if added := sorted({*later.seeds} - planned):
            planned |= {*added}
            yield (
                f"MIXED. {_numbers(added)} added on {later.recorded}, {_when(later)}; interval and p do not allow for "
                "a look at the figures in between."
            )
    if unrecorded := finished - planned:
        yield (
            f"MIXED. {_numbers(sorted(unrecorded))} added later, in no recorded plan; interval and p do not allow for "
            "a look at the figures in between."
        )
    if missing := planned - {*asked.seeds}:
        yield f"MIXED. {_numbers(sorted(missing))} of the planned ones are left out here."
    if finished and (missing := ({*asked.seeds} & planned) - finished):
        yield (
            f"UNFINISHED. {_numbers(sorted(missing))} of the planned ones; interval and p do not allow for an end that "
            "a look at the figures decided."
        )
    elif others_finished and not finished:
        yield "UNFINISHED. None of the planned runs is finished; p is adjusted for the others alone."
    if others := {one.epochs for one in recorded if _is_otherwise(one, asked)} - {asked.epochs}:
        yield f"ALSO PLANNED with {', '.join(map(str, sorted(others)))} epochs."
    if any(_is_otherwise(one, asked) and one.epochs == asked.epochs for one in recorded):
        yield "ALSO PLANNED under other settings or another recipe; p is not adjusted for these."


def _holds_for(plan: FixedPlan, asked: FixedPlan) -> bool:
    return plan.is_of(asked) or (not plan.variant and plan.is_of(asked, _NETWORK))


def _is_otherwise(plan: FixedPlan, asked: FixedPlan) -> bool:
    """Return True if a plan is of the same variant of the network under other settings."""
    is_same = (plan.grid, plan.model) == (asked.grid, asked.model) and plan.variant in ("", asked.variant)
    return is_same and not plan.is_of(asked, _NETWORK)


def _when(plan: FixedPlan) -> str:
    whose = " of theirs" if plan.variant else ""
    if not plan.finished:
        return f"before any run{whose} had finished"
    return f"when {plan.finished} run{'' if plan.finished == 1 else 's'}{whose} had finished"


def _asked(plan: Mapping[str, tuple[Grid, Sequence[PlannedRun]]]) -> list[FixedPlan]:
    now = datetime.now(timezone.utc).strftime(_TIME)
    asked = []
    for name, (_, runs) in plan.items():
        for model, variant in _pairs(runs):
            own = [run for run in runs if (run.run.model, run.run.variant) == (model, variant)]
            changed = {key: new for key, (_, new) in own[0].departures.items() if key != "data.init_args.root"}
            settings = json.dumps([own[0].run.options, changed], sort_keys=True, default=str)
            seeds = tuple(sorted({run.run.seed for run in own}))
            finished = sum(run.state() == "finished" for run in own)
            asked.append(FixedPlan(name, model, variant, own[0].recipe, own[0].epochs, settings, seeds, now, finished))
    return asked


def _pairs(runs: Sequence[PlannedRun]) -> list[tuple[str, str]]:
    """Return network and variant of the runs, each pair once."""
    return [*dict.fromkeys((run.run.model, run.run.variant) for run in runs)]


def _listed(titles: Sequence[str]) -> str:
    return " and ".join(filter(None, ["; ".join(titles[:-1]), titles[-1]]))


def _numbers(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]}"
