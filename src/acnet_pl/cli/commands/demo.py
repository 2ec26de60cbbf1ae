"""Train a plain network and its ACNet on handwritten digits and report both."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from acnet_pl.cli.functions import run_function
from acnet_pl.config.errors import UsageError
from acnet_pl.config.program import program, python

__all__ = ["demo", "run"]

_EXAMPLES = ("demo", "demo --epochs 30 --seed 1")
_NEXT = """What to try next:
  {program} reproduce digits --seeds 0 1 2 3      several seeds, other variants, pruning
  {program} fit --model.backbone ResNetCifar --model.backbone.depth 20     another backbone
  {program} fit --data CIFARDataModule --data.root data/ --data.download true   real images
  {python} -c {code}    the fused network"""


def demo(epochs: int = 15, seed: int = 0, runs_dir: str = "runs") -> None:
    """Train Cifar-quick and its ACNet on scikit-learn's handwritten digits, fuse and test both, and write a report.

    Args:
        epochs: Epochs of each of the two trainings.
        seed: Random seed of both trainings.
        runs_dir: Where runs/NAME/TIME and the report are written.
    """
    if epochs < 1:
        raise UsageError(f"`epochs` (={epochs}) must be at least 1")
    from rich.console import Console

    from acnet_pl.cli import lightning
    from acnet_pl.cli.summary import comparison
    from acnet_pl.reproduce.plan import Options, make_plan
    from acnet_pl.reproduce.report import write_report
    from acnet_pl.reproduce.results import GridResult
    from acnet_pl.reproduce.run_result import RunResult

    console = Console(markup=False, emoji=False)
    options = Options(("digits",), ("cifar_quick",), ("plain", "acb"), (seed,), epochs=epochs, runs_dir=Path(runs_dir))
    grid, planned = make_plan(options)["digits"]
    titles = {variant.key: variant.title for variant in grid.variants}
    summaries = {}
    for one in planned:
        title = titles[one.run.variant]
        console.rule(f"{title}: training {epochs} epochs")
        folder = lightning.run([*one.arguments, "--wandb.tags+", "demo"])
        summaries[title] = json.loads((folder / "summary.json").read_text())
    runs = [RunResult.of(one) for one in planned]
    results = GridResult(replace(grid, analyses=("magnitude",)), runs, planned[0].recipe, "last", pruning_seeds=0)
    report = write_report(Path(runs_dir) / "demo", {"digits": results}, ["python", "-m", "acnet_pl", "demo"])
    console.rule("plain and ACNet side by side")
    console.print(comparison(summaries))
    console.print(
        "The test set has 300 digits, so one digit is 0.33 points: one run cannot tell which network is better.\n"
        "The fused networks have the same structure and cost.\n"
        "Written:",
        *(f"\n  {summary['folder']}" for summary in summaries.values()),
        f"\n  {report} (open it in a browser)",
        soft_wrap=True,
        highlight=False,
    )
    code = f"import acnet_pl; print(acnet_pl.load_fused({summaries[titles['acb']]['fused']['path']!r}))"
    following = _NEXT.format(program=program(), python=python(), code=shlex.quote(code))
    console.print(following, soft_wrap=True, highlight=False)


def run(args: Sequence[str]) -> None:
    """Parse the options and run the demonstration."""
    run_function(demo, args, _EXAMPLES)
