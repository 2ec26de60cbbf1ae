"""Write report.html, report.md and results.json of grids, finished or not."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from acnet_pl.atomic import atomic_path
from acnet_pl.provenance import versions
from acnet_pl.reproduce.costs import deployed
from acnet_pl.reproduce.departures import standing_departures
from acnet_pl.reproduce.elements import Block, Commands, Headline, Notice, Points, Section, Table, Text
from acnet_pl.reproduce.elements import Cell as _Cell
from acnet_pl.reproduce.figures import figures
from acnet_pl.reproduce.fixed_plan import is_amiss
from acnet_pl.reproduce.headline import headlines
from acnet_pl.reproduce.records import FORMAT
from acnet_pl.reproduce.render import render
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.runner import command_line
from acnet_pl.reproduce.statistics import Sample
from acnet_pl.reproduce.tables import main_tables, run_table

__all__ = ["correlations", "write_report"]


def write_report(output: Path, results: Mapping[str, GridResult], command: Sequence[str]) -> Path:
    """Write report.html, report.md and results.json.

    Args:
        output: Folder for them; made where it is missing.
        results: Grids by name.
        command: Command line as typed.

    Returns:
        Path of report.html.
    """
    output = output.absolute()
    sections = [Section(result.grid.title, name, list(_blocks(result, output))) for name, result in results.items()]
    sections.append(Section("How this was made", "made", list(_made(results, command))))
    title = "Reproduction of ACNet: " + ", ".join(
        name.replace("table", "Table ").replace("fig", "Fig. ") for name in results
    )
    finished = sum(result.finished for result in results.values())
    planned = sum(len(result.runs) for result in results.values())
    state = "all runs finished" if finished == planned else f"unfinished: {finished} of {planned} runs so far"
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lead = f"Plain networks and their ACNets under identical settings; {state}. Written {written}."
    content = {
        "format": FORMAT,
        "written": written,
        "command": list(command),
        "versions": versions(),
        "grids": {name: result.as_dict() for name, result in results.items()},
    }
    files = {
        "results.json": json.dumps(content, indent=2, default=str) + "\n",
        **{name: render(name, title, lead, sections) for name in ("report.md", "report.html")},
    }
    for name, text in files.items():
        with atomic_path(output / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return output / "report.html"


def _blocks(result: GridResult, output: Path) -> Iterator[Block]:
    said = list(headlines(result))
    if said:
        yield Headline(said)
    recipe = result.grid.recipes[result.recipe].title
    seeds = ", ".join(map(str, result.seeds))
    yield Text(f"Recipe: {recipe}. Data: {result.data}. Seeds: {seeds}. Figures: {result.protocol}.")
    amiss = [remark for remark in result.fixed if is_amiss(remark)] + result.mixed
    if amiss:
        yield Notice("Not all figures here are alike, or planned beforehand.", amiss)
    if result.departures:
        yield Notice(
            "These runs depart from the recipe"
            + ("; the published figures are of the full one." if result.grid.published else "."),
            [f"{name}: {'; '.join(changes)}" for name, changes in result.departures.items()],
        )
    if result.damaged:
        yield Notice(
            "Runs are left out here because their summaries are damaged; the same command without --report-only makes "
            "them anew.",
            result.damaged,
        )
    if result.finished < len(result.runs):
        unfinished = [
            f"{run.planned.run.name}: {'failed, see log.txt in its folder' if run.failed else run.state}"
            for run in result.runs
            if run.state != "finished"
        ]
        shown = unfinished[:12] + ([f"and {len(unfinished) - 12} more"] if len(unfinished) > 12 else [])
        yield Notice(f"{result.finished} of {len(result.runs)} runs are finished.", shown)
    for analysis in result.grid.analyses:
        due = [run.planned.run.name for run in result.due(analysis)]
        if due:
            yield Notice(
                f"The analysis {analysis!r} is not computed for these finished networks yet; the same command without "
                "--report-only computes it.",
                due[:12] + ([f"and {len(due) - 12} more"] if len(due) > 12 else []),
            )
    unused = [
        f"{folder}: " + "; ".join(f"{name} is {old}, not {new}" for name, (old, new) in list(changes.items())[:3])
        for run in result.runs
        for folder, changes in run.planned.others().items()
    ]
    yield from main_tables(result)
    yield Points("How to read the figures", list(_reading(result)))
    standing = list(standing_departures(result.grid, result.recipe, result.departures))
    if standing:
        yield Points("Where the recipe differs from the article or the authors' code, or had to choose", standing)
    if result.grid.claims:
        yield Points("In the article", result.grid.claims)
    yield from figures(result)
    yield run_table(result, output)
    if unused:
        yield Points("Runs of the same names that are not used, because their settings are others", unused)


def _reading(result: GridResult) -> Iterator[str]:
    yield "Each network has one accuracy: that of the fused network, evaluated in float32."
    yield (
        "Intervals and p come from Student's t over pairs of runs with the same seed: they cover the spread between "
        "trainings. If a table has several gains, p is adjusted for all of them by Holm's method; the intervals are "
        "not adjusted."
    )
    yield from correlations(result)
    if result.grid.costs:
        yield from deployed(result)
    means = [
        result.sample(model.key, result.grid.variants[0].key, result.grid.measures[0]) for model in result.grid.models
    ]
    if len({sample.n for sample in _every(result) if sample.n}) > 1:
        yield (
            "Where a variant has fewer finished seeds than the baseline, its gain is that of the seeds they share, and "
            "not the difference of the two accuracies in the table."
        )
    share = next((sample.mean / 100 for sample in means if sample.n), None)
    if share is not None and result.test_images:
        error = 100 * (share * (1 - share) / result.test_images) ** 0.5
        yield (
            f"All runs are tested on the same {result.test_images:,} images. On other images an accuracy of "
            f"{share:.0%} would differ by ± {error:.1f} points (one standard error). Most of that is common to both "
            "networks of a pair. The intervals do not include it."
        )
    if result.finished:
        yield result.fingerprint_remark
    yield from (remark for remark in result.fixed if not is_amiss(remark))


def _every(result: GridResult) -> Iterator[Sample]:
    """Yield the first measure's figures of each network and variant."""
    for model in result.grid.models:
        for variant in result.grid.variants:
            yield result.sample(model.key, variant.key, result.grid.measures[0])


def correlations(result: GridResult) -> Iterator[str]:
    """Yield one sentence with the correlations of variants with the baseline, if any has the three pairs needed."""
    base, *others = result.grid.variants
    measure = result.grid.measures[0]
    found = [
        f"{result.title(model.key, variant.key)}: {correlation}"
        for model in result.grid.models
        for variant in others
        if (correlation := result.correlation(model.key, variant.key, measure)).value is not None
    ]
    if found:
        yield (
            f"Correlation of {measure.title} with that of {base.title}, over pairs of one seed: {'; '.join(found)}. "
            "With a correlation r the spread of differences is √(1 − r) times that of networks that are no pairs."
        )


def _made(results: Mapping[str, GridResult], command: Sequence[str]) -> Iterator[Block]:
    yield Commands("Command", [shlex.join(command)])
    runs = {run.planned.run.name: run for result in results.values() for run in result.runs}
    made = {
        tuple(run.summary["versions"].items()): None
        for run in runs.values()
        if run.summary and "versions" in run.summary
    }
    names = list(dict.fromkeys(name for one in made for name, _ in one))
    if made:
        rows = [[_Cell(dict(one).get(name, "—"), "label") for name in names] for one in made]
        yield Table("Versions and hardware of the runs.", names, rows)
    files = Counter(str(run.record.file) for run in runs.values() if run.record)
    if files:
        counts = ", ".join(f"{file} ({count} {'run' if count == 1 else 'runs'})" for file, count in files.items())
        without = (
            "; their networks are not here to be analysed" if any(r.grid.analyses for r in results.values()) else ""
        )
        yield Text(f"Trained on other machines, and taken from their records: {counts}{without}.")
    report = ", ".join(f"{name} {version}" for name, version in versions().items())
    yield Text(f"This report was written with {report}.")
    commands = [shlex.join(command_line(run.planned)) for run in runs.values()]
    yield Commands("One command for each run", commands, collapsed=True)
