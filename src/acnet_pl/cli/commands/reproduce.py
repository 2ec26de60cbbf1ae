"""Run a table or figure of the article and report it beside the published numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from acnet_pl.cli.functions import PlainParser
from acnet_pl.config.arguments import Arguments
from acnet_pl.config.catalogue import Catalogue
from acnet_pl.config.errors import UsageError
from acnet_pl.config.names import did_you_mean, nearest, nearest_option
from acnet_pl.config.program import program
from acnet_pl.config.trusted import TRUST
from acnet_pl.reproduce import ANALYSES, ARTICLE, TARGETS

__all__ = ["run"]

_DECIDED = ("--config", "-c", "--name", "--seed_everything", "--data.seed", "--trainer.max_epochs")
_ACTIONS = {
    "list": "print a shell command for each unfinished run",
    "dry_run": "print plan, cost, and the pairs that a gain needs",
    "report_only": "report finished runs; train nothing",
}
_EPILOG = """Every other option is handed to `fit`, for all runs alike: --data.root DIR, --trainer.precision bf16-mixed

examples:
  {program} reproduce digits --seeds 0 1           no download, minutes on a CPU
  {program} reproduce table1 --data.root data/ --dry-run
  {program} reproduce table1 --models resnet56 --epochs 60 --data.root data/
  {program} reproduce cheaper --engine graphs --epochs 20 --data.root data/
  {program} reproduce table1 --list --data.root data/ | parallel -j 4
"""


def run(args: Sequence[str]) -> None:
    """Parse the options and run, list or report the grid.

    Raises:
        SystemExit: With 1 where a run failed, 130 where the user interrupted.
    """
    asked, fit = _parse(args[1:])
    from acnet_pl.cli.grids import reproduce
    from acnet_pl.reproduce.plan import Options

    options = Options(
        grids=ARTICLE if asked.what == "all" else (asked.what,),
        models=tuple(asked.models),
        variants=tuple(asked.variants),
        seeds=tuple(asked.seeds),
        recipe=asked.recipe,
        epochs=asked.epochs,
        selection=asked.select,
        runs_dir=asked.runs_dir,
        fit=fit,
        pruning_seeds=asked.pruning_seeds,
        analyses=tuple(asked.analyses),
    )
    reproduce(options, asked, args)


def _parse(args: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    parser = PlainParser(
        prog=f"{program()} reproduce",
        usage=f"{program()} reproduce WHAT [--OPTION VALUE]...",
        description="Train plain networks and ACNets under identical settings, and report them as a table or figure.",
        epilog=_EPILOG.format(program=program()),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=100),
        allow_abbrev=False,
    )
    parser.add_argument(
        "what", metavar="WHAT", choices=[*TARGETS, "all"], help=f"{', '.join(TARGETS)}, or all: the article's"
    )
    parser.add_argument("--models", nargs="+", default=(), help="only these, by the names of their recipes")
    parser.add_argument("--variants", nargs="+", default=(), help="only these, by the names in experiments/conv")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=(0, 1, 2), help="train every network once per seed; default 0 1 2"
    )
    parser.add_argument(
        "--epochs", type=int, help="train for so many epochs; schedules shrink in proportion, and the report says so"
    )
    parser.add_argument("--recipe", help="article (default): the article's schedule; cosine: the authors' later one")
    parser.add_argument(
        "--select",
        choices=("last", "best"),
        default="last",
        help="test the last epoch's weights (default; the article does not say which), or the best on held-out images",
    )
    parser.add_argument(
        "--analyses",
        nargs="+",
        default=(),
        choices=list(ANALYSES),
        metavar="NAME",
        help=f"analyse the trained networks too, beyond what WHAT does: {', '.join(ANALYSES)}",
    )
    parser.add_argument(
        "--pruning_seeds",
        type=int,
        default=5,
        help="random draws of kernels for each pruning curve of Fig. 5; default 5",
    )
    parser.add_argument(
        "--engine",
        choices=("fit", "graphs"),
        default="fit",
        help="graphs: small networks side by side in this process, on a GPU one CUDA graph per step; same numbers",
    )
    parser.add_argument("--at_once", type=int, help="graphs: networks side by side; default all; on a CPU one per core")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="where runs/NAME/TIME is; default runs")
    parser.add_argument(
        "--records",
        nargs="+",
        type=Path,
        default=(),
        metavar="FILE",
        help="results.json of other machines: their finished runs count",
    )
    parser.add_argument("--output", type=Path, help="folder of the report; default RUNS_DIR/reproduce/WHAT")
    parser.add_argument(
        "--gain", type=float, help="for --dry-run: gain to find, in points; default published, else 0.5"
    )
    parser.add_argument(
        "--spread",
        type=float,
        help="for --dry-run: standard deviation of the pairs' gains, in points; default that of finished pairs",
    )
    actions = parser.add_mutually_exclusive_group()
    for action, text in _ACTIONS.items():
        flags = dict.fromkeys([f"--{action.replace('_', '-')}", f"--{action}"])
        actions.add_argument(*flags, action="store_const", dest="action", const=action, default="run", help=text)
    parser.add_argument(TRUST[0].split()[0], metavar=TRUST[0].split()[1], help=TRUST[1])  # taken before
    known, unknown = parser.parse_known_args(list(args))
    fit = tuple(option for option in unknown if option != "--")
    for option in fit:
        if option.partition("=")[0] in _DECIDED:
            parser.error(f"{option.partition('=')[0]} is decided by the grid; see --seeds, --epochs and --recipe")
    if known.epochs is not None and known.epochs < 1:
        parser.error(f"--epochs (={known.epochs}) must be at least 1")
    if known.at_once is not None and (known.at_once < 1 or known.engine != "graphs"):
        parser.error(f"--at_once (={known.at_once}) must be at least 1, and goes with --engine graphs")
    if known.action == "list" and known.engine == "graphs":
        parser.error("--list prints `fit` commands; leave --engine graphs out")
    if known.pruning_seeds < 1:
        parser.error(f"--pruning_seeds (={known.pruning_seeds}) must be at least 1")
    if known.gain is not None and (known.gain == 0 or not math.isfinite(known.gain)):
        parser.error(f"--gain (={known.gain}) must be a finite number of points other than 0")
    if known.spread is not None and not 0 <= known.spread < math.inf:
        parser.error(f"--spread (={known.spread}) must be a finite number of points, at least 0")
    if wrong := [seed for seed in known.seeds if not 0 <= seed < 2**32]:
        parser.error(f"--seeds ({' '.join(map(str, wrong))}) must be from 0 to 4294967295")
    if len(set(known.seeds)) < len(known.seeds):
        parser.error(f"--seeds ({' '.join(map(str, known.seeds))}) must differ")
    _check_fit(fit, parser)
    return known, fit


def _check_fit(fit: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Check that options for `fit` exist."""
    own = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    catalogue = Catalogue("fit")
    for option in Arguments(["fit", *fit]).options:
        if catalogue.knows(option.name) is False:
            near = nearest(option.name, own, cutoff=0.7) or nearest_option(option.name, catalogue.names())
            raise UsageError(f"{option.typed}: there is no such option{did_you_mean(near and f'--{near}')}")
