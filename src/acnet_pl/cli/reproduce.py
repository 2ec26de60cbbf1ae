"""``python -m acnet_pl reproduce WHAT``: the article's tables and figures, each from one command."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from acnet_pl.reproduce import ARTICLE, TARGETS
from acnet_pl.reproduce.analyses import pruning
from acnet_pl.reproduce.fixed_plan import FixedPlan, fix_plan, read_plans
from acnet_pl.reproduce.graphs import run_side_by_side
from acnet_pl.reproduce.grid import Grid
from acnet_pl.reproduce.plan import Options, PlannedRun, make_plan
from acnet_pl.reproduce.power import needs, power_table, warnings
from acnet_pl.reproduce.report import write_report
from acnet_pl.reproduce.results import GridResult, RunResult
from acnet_pl.reproduce.runner import command_line, run_all

__all__ = ["run"]

_DECIDED = ("--config", "-c", "--name", "--seed_everything", "--data.seed", "--trainer.max_epochs")
_EPILOG = """Every other option is handed to `fit`, for all runs alike: --data.root DIR, --trainer.precision bf16-mixed

examples:
  python -m acnet_pl reproduce digits --seeds 0 1           no download, minutes on a CPU
  python -m acnet_pl reproduce table1 --data.root data/ --dry-run
  python -m acnet_pl reproduce table1 --models resnet56 --epochs 60 --data.root data/
  python -m acnet_pl reproduce cheaper --engine graphs --epochs 20 --data.root data/
  python -m acnet_pl reproduce table1 --list --data.root data/ | parallel -j 4
"""


def run(args: Sequence[str]) -> None:
    """Parse the options; plan, list, run or report.

    Raises:
        SystemExit: With 1 where a run failed, 130 where the user interrupted.
    """
    options, asked = _parse(args[1:])
    console = Console(highlight=False, markup=False, emoji=False)
    plan = make_plan(options)
    runs = _unique(plan)
    todo = [planned for planned in runs.values() if planned.state() != "finished"]
    output = asked.output or options.runs_dir / "reproduce" / asked.what
    if not (asked.dry_run or asked.report_only):
        fix_plan(output, plan)
    if asked.list:
        for planned in todo:
            print(shlex.join(command_line(planned)))
        return
    if asked.dry_run:
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
    if not asked.report_only:
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
    results = _results(plan, options, failed, read_plans(output))
    report = write_report(output, results, ["python", "-m", "acnet_pl", *args])
    console.print(f"Written: {report}", soft_wrap=True)
    if interrupted:
        console.print("Interrupted; the same command goes on where this one stopped.")
    if interrupted or failed:
        raise SystemExit(130 if interrupted else 1)


def _results(
    plan: dict[str, tuple[Grid, list[PlannedRun]]],
    options: Options,
    failed: Mapping[str, int] | None = None,
    recorded: Sequence[FixedPlan] = (),
) -> dict[str, GridResult]:
    """The grids as they stand on the disk."""
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


def _parse(args: Sequence[str]) -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m acnet_pl reproduce",
        description="Run a table or figure of the article, plain nets and ACNets under identical settings, and report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "what", metavar="WHAT", choices=[*TARGETS, "all"], help=f"{', '.join(TARGETS)}, or all: the article's"
    )
    parser.add_argument("--models", nargs="+", default=(), help="only these, by the names of their recipes")
    parser.add_argument("--variants", nargs="+", default=(), help="only these, by the names in experiments/conv")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="one run each; default 0 1 2")
    parser.add_argument("--epochs", type=int, help="train for fewer, schedules in proportion; the report says so")
    parser.add_argument("--recipe", help="article (default): the article's schedule; cosine: the authors' later one")
    parser.add_argument(
        "--select",
        choices=("last", "best"),
        default="last",
        help="test the last epoch's weights (default; the article does not say which), or the best on held-out images",
    )
    parser.add_argument("--pruning_seeds", type=int, default=5, help="draws for each curve of Fig. 5; default 5")
    parser.add_argument(
        "--engine",
        choices=("fit", "graphs"),
        default="fit",
        help="graphs: small networks side by side in this process, on a GPU each step one CUDA graph; same numbers",
    )
    parser.add_argument("--at_once", type=int, help="graphs: networks side by side; default all, on a CPU one a core")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs/NAME/TIME is; default runs")
    parser.add_argument("--output", type=Path, help="folder of the report; default RUNS_DIR/reproduce/WHAT")
    parser.add_argument("--gain", type=float, help="of --dry-run: points to find; default the published gain, else 0.5")
    parser.add_argument(
        "--spread",
        type=float,
        help="of --dry-run: std of the gains of pairs, in points; default that of finished pairs",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="print a shell command for each unfinished run")
    action.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="print plan, cost, and the pairs that a gain needs"
    )
    action.add_argument("--report-only", "--report_only", action="store_true", help="report on what there is")
    known, unknown = parser.parse_known_args(list(args))
    fit = tuple(option for option in unknown if option != "--")
    for option in fit:
        if option.partition("=")[0] in _DECIDED:
            parser.error(f"{option.partition('=')[0]} is decided by the grid; see --seeds, --epochs and --recipe")
    if known.epochs is not None and known.epochs < 1:
        parser.error(f"--epochs (={known.epochs}) must be at least 1")
    if known.at_once is not None and (known.at_once < 1 or known.engine != "graphs"):
        parser.error(f"--at_once (={known.at_once}) must be at least 1, and goes with --engine graphs")
    if known.list and known.engine == "graphs":
        parser.error("--list prints `fit` commands; leave --engine graphs out")
    if known.gain == 0 or (known.spread is not None and known.spread < 0):
        parser.error(f"--gain (={known.gain}) must not be 0 and --spread (={known.spread}) not be negative")
    if len(set(known.seeds)) < len(known.seeds):
        parser.error(f"--seeds ({' '.join(map(str, known.seeds))}) must differ")
    options = Options(
        grids=ARTICLE if known.what == "all" else (known.what,),
        models=tuple(known.models),
        variants=tuple(known.variants),
        seeds=tuple(known.seeds),
        recipe=known.recipe,
        epochs=known.epochs,
        selection=known.select,
        runs_dir=known.runs_dir,
        fit=fit,
        pruning_seeds=known.pruning_seeds,
    )
    return options, known


def _unique(plan: dict[str, tuple[Grid, list[PlannedRun]]]) -> dict[str, PlannedRun]:
    """The runs by name, each once: figures share their networks with tables."""
    return {planned.run.name: planned for _, runs in plan.values() for planned in runs}


def _analyse(plan: dict[str, tuple[Grid, list[PlannedRun]]], options: Options) -> None:
    for grid, runs in plan.values():
        for planned in runs:
            folder = planned.folder()
            if grid.prunes(planned.run) and folder is not None and planned.state() == "finished":
                pruning(planned, folder, options.pruning_seeds)


def _plan_table(runs: object) -> Table:
    table = Table("run", "state", "epochs", "training MACs", title="Plan", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    assert hasattr(runs, "__iter__")
    for planned in runs:
        table.add_row(planned.run.name, planned.state(), str(planned.epochs), _macs(planned.training_macs))
    return table


def _cost(runs: Sequence[PlannedRun], todo: Sequence[PlannedRun]) -> str:
    """What is to be done in epochs and multiply-accumulates, and in hours at the speed of the finished runs."""
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
    if speeds and total:
        lines.append(f"About {total * sum(speeds) / len(speeds) / 3600:.1f} hours at the speed of the finished runs.")
    return "\n".join(lines)


def _macs(count: int | None) -> str:
    return "unknown" if count is None else f"{count:.2e}"
