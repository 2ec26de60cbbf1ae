"""Write a report: report.html, report.md and results.json, from grids that may be unfinished."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from acnet_pl.atomic import atomic_path
from acnet_pl.provenance import versions
from acnet_pl.reproduce.blocks import Block, Commands, Notice, Points, Section, Table, Text
from acnet_pl.reproduce.blocks import Cell as _Cell
from acnet_pl.reproduce.figures import figures
from acnet_pl.reproduce.html import render_html
from acnet_pl.reproduce.markdown import render_markdown
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.runner import command_line
from acnet_pl.reproduce.tables import main_tables, run_table

__all__ = ["write_report"]


def write_report(output: Path, results: Mapping[str, GridResult], command: Sequence[str]) -> Path:
    """Write the three files.

    Args:
        output: Folder for them; made where it is missing.
        results: Grids by name.
        command: What was typed.

    Returns:
        Path of report.html.
    """
    output = output.absolute()
    sections = [Section(result.grid.title, name, list(_blocks(result, output))) for name, result in results.items()]
    sections.append(Section("How this was made", "made", list(_made(results, command))))
    title = "ACNet reproduced: " + ", ".join(
        name.replace("table", "Table ").replace("fig", "Fig. ") for name in results
    )
    finished = sum(result.finished for result in results.values())
    planned = sum(len(result.runs) for result in results.values())
    state = "all runs finished" if finished == planned else f"unfinished: {finished} of {planned} runs so far"
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lead = f"Plain networks and their ACNets under identical settings; {state}. Written {written}."
    content = {
        "format": "acnet_pl.results/1",
        "written": written,
        "command": list(command),
        "versions": versions(),
        "grids": {name: result.as_dict() for name, result in results.items()},
    }
    files = {
        "results.json": json.dumps(content, indent=2, default=str) + "\n",
        "report.md": render_markdown(title, lead, sections),
        "report.html": render_html(title, lead, sections),
    }
    for name, text in files.items():
        with atomic_path(output / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return output / "report.html"


def _blocks(result: GridResult, output: Path) -> Iterator[Block]:
    recipe = result.grid.recipes[result.recipe].title
    seeds = ", ".join(map(str, result.seeds))
    yield Text(f"Recipe: {recipe}. Data: {result.data}. Seeds: {seeds}. Figures: {result.protocol}.")
    if result.departures:
        yield Notice(
            "These runs depart from the recipe"
            + ("; the published figures are of the full one." if result.grid.published else "."),
            [f"{name}: {'; '.join(changes)}" for name, changes in result.departures.items()],
        )
    if result.finished < len(result.runs):
        unfinished = [
            f"{run.planned.run.name}: {'failed, see log.txt in its folder' if run.failed else run.state}"
            for run in result.runs
            if run.state != "finished"
        ]
        shown = unfinished[:12] + ([f"and {len(unfinished) - 12} more"] if len(unfinished) > 12 else [])
        yield Notice(f"{result.finished} of {len(result.runs)} runs are finished.", shown)
    unpruned = [run.planned.run.name for run in result.unpruned]
    if unpruned:
        shown = unpruned[:12] + ([f"and {len(unpruned) - 12} more"] if len(unpruned) > 12 else [])
        yield Notice(
            "Fig. 5 lacks finished networks, whose pruning curves are not computed yet; the same command without "
            "--report-only computes them.",
            shown,
        )
    unused = [
        f"{folder}: " + "; ".join(f"{name} is {old}, not {new}" for name, (old, new) in list(changes.items())[:3])
        for run in result.runs
        for folder, changes in run.planned.others().items()
    ]
    yield from main_tables(result)
    if result.grid.claims:
        yield Points("In the article", result.grid.claims)
    yield from figures(result)
    yield run_table(result, output)
    if unused:
        yield Points("Runs of the same names that are not used, because their settings are others", unused)


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
    report = ", ".join(f"{name} {version}" for name, version in versions().items())
    yield Text(f"This report was written with {report}.")
    commands = [shlex.join(command_line(run.planned)) for run in runs.values()]
    yield Commands("One command for each run", commands, folded=True)
