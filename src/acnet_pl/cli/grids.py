"""Run, list or report the grids of tables and figures."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from acnet_pl.cli.gains import log_gains
from acnet_pl.cli.terminal_text import printable
from acnet_pl.config.errors import UsageError
from acnet_pl.reproduce.analysis import load_analysis
from acnet_pl.reproduce.fixed_plan import FixedPlan, fix_plan, read_plans
from acnet_pl.reproduce.graphs import run_side_by_side
from acnet_pl.reproduce.grid import Grid
from acnet_pl.reproduce.plan import Options, PlannedRun, make_plan
from acnet_pl.reproduce.power import needs, power_table, warnings
from acnet_pl.reproduce.records import Records, read_records, unplanned, with_records
from acnet_pl.reproduce.report import write_report
from acnet_pl.reproduce.results import GridResult
from acnet_pl.reproduce.run_result import RunResult
from acnet_pl.reproduce.runner import command_line, run_all

__all__ = ["reproduce"]


def reproduce(options: Options, asked: argparse.Namespace, args: Sequence[str]) -> None:
    """Plan the runs of grids, then run and report them, as asked.

    Args:
        options: Selection of the runs.
        asked: Options of the command, which say what to do with the runs.
        args: The command and its arguments, which the report shows.

    Raises:
        SystemExit: With 1 where a run failed, 130 where the user interrupted.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    records = read_records(asked.records)
    plan = _with_records(make_plan(options), records)
    runs = _unique(plan)
    todo = [planned for planned in runs.values() if planned.state() != "finished"]
    output = asked.output or options.runs_dir / "reproduce" / asked.what
    if any(file.resolve() == (output / "results.json").resolve() for file in asked.records):
        raise UsageError(
            f"--records {output / 'results.json'} is the file that this report is written to, with the runs of this "
            "command alone; copy it elsewhere first, or give another --output"
        )
    if asked.action not in ("dry_run", "report_only"):
        fix_plan(output, plan, records.plans)
    if asked.action == "list":
        for planned in todo:
            print(shlex.join(command_line(planned)))
        return
    if asked.action == "dry_run":
        console.print(_plan_table(runs.values()))
        console.print(_cost(list(runs.values()), todo), soft_wrap=True)
        comparisons = [
            need for result in _results(plan, options).values() for need in needs(result, asked.gain, asked.spread)
        ]
        if comparisons:
            console.print(power_table(comparisons))
        for warning in warnings(comparisons):
            console.print(warning, soft_wrap=True)
        return
    failed: dict[str, int] = {}
    interrupted = False
    if asked.action != "report_only":
        console.print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished", soft_wrap=True)
        before = signal.signal(signal.SIGTERM, _interrupt)  # a cluster's or an agent's way to say stop
        try:
            graphs = asked.engine == "graphs"
            failed = run_side_by_side(todo, console, asked.at_once) if graphs else run_all(todo, console)
            _analyse(plan, options)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            signal.signal(signal.SIGTERM, before)
    results = _results(plan, options, failed, read_plans(output, records.plans))
    for fault in dict.fromkeys(fault for result in results.values() for fault in result.damaged):
        console.print(f"Warning: left out {fault}", soft_wrap=True)
    report = write_report(output, results, ["python", "-m", "acnet_pl", *args])
    console.print(f"Written: {report}", soft_wrap=True)
    for name, result in results.items():
        log_gains(name, result, output)
    if interrupted:
        console.print("Interrupted; the same command goes on where this one stopped.")
    if interrupted or failed:
        raise SystemExit(130 if interrupted else 1)


def _with_records(
    plan: dict[str, tuple[Grid, list[PlannedRun]]], records: Records
) -> dict[str, tuple[Grid, list[PlannedRun]]]:
    """Return the plan with what the records have of its runs, and say what of them is left out."""
    found = {name: (grid, *with_records(runs, records)) for name, (grid, runs) in plan.items()}
    names = {run.run.name for _, runs in plan.values() for run in runs}
    left_out = [reason for _, _, reasons in found.values() for reason in reasons] + unplanned(names, records)
    for reason in dict.fromkeys(left_out):
        print(f"Warning: left out of {printable(reason)}", file=sys.stderr)  # --list prints commands for a shell
    return {name: (grid, runs) for name, (grid, runs, _) in found.items()}


def _results(
    plan: dict[str, tuple[Grid, list[PlannedRun]]],
    options: Options,
    failed: Mapping[str, int] | None = None,
    recorded: Sequence[FixedPlan] = (),
) -> dict[str, GridResult]:
    """Read the current results of each grid from disk."""
    return {
        name: GridResult(
            grid,
            [RunResult.of(planned, planned.run.name in (failed or {})) for planned in runs],
            runs[0].recipe,
            options.selection,
            options.pruning_seeds,
            tuple(recorded),
        )
        for name, (grid, runs) in plan.items()
    }


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _unique(plan: dict[str, tuple[Grid, list[PlannedRun]]]) -> dict[str, PlannedRun]:
    """Return the runs by name, each once, since figures and tables share runs."""
    return {planned.run.name: planned for _, runs in plan.values() for planned in runs}


def _analyse(plan: dict[str, tuple[Grid, list[PlannedRun]]], options: Options) -> None:
    for result in _results(plan, options).values():
        for name in result.grid.analyses:
            for run in result.due(name):
                assert run.folder is not None
                load_analysis(name).compute(run.planned, run.folder, options.pruning_seeds)


def _plan_table(runs: object) -> Table:
    table = Table("run", "state", "epochs", "training MACs", title="Plan", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    assert hasattr(runs, "__iter__")
    for planned in runs:
        table.add_row(planned.run.name, planned.state(), str(planned.epochs), _macs(planned.training_macs))
    return table


def _cost(runs: Sequence[PlannedRun], todo: Sequence[PlannedRun]) -> str:
    """Describe the remaining work in epochs and multiply-accumulates, and in hours at the speed of finished runs."""
    costs = [planned.training_macs for planned in todo]
    epochs = sum(planned.epochs for planned in todo)
    total = None if None in costs else sum(cost for cost in costs if cost is not None)
    lines = [f"{len(todo)} of {len(runs)} runs to do: {epochs} epochs, {_macs(total)} multiply-accumulates."]
    lines.append("Counted as three forward passes of the training network for each image: one forward, two backward.")
    speeds = []
    for planned in runs:
        result = RunResult.of(planned)
        if result.summary and planned.training_macs and (seconds := result.summary.get("seconds_per_epoch")):
            speeds.append(seconds * planned.epochs / planned.training_macs)
    if todo and not speeds:
        lines.append("Once a run is finished, this tells how many hours the others take at its speed.")
    if speeds and total:
        lines.append(f"About {total * sum(speeds) / len(speeds) / 3600:.1f} hours at the speed of the finished runs.")
    return "\n".join(lines)


def _macs(count: int | None) -> str:
    return "unknown" if count is None else f"{count:.2e}"
