"""``python -m acnet_pl demo``: a plain network and its ACNet side by side, on data that need no download."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from acnet_pl.cli.functions import run_function
from acnet_pl.config.program import program, python

__all__ = ["demo", "run"]

_EXAMPLES = ("demo", "demo --epochs 30 --seed 1")
_NEXT = """What to try next:
  {program} fit --model.backbone ResNetCifar --model.backbone.depth 20     another backbone
  {program} fit --model.conv ACBConv --model.conv.position border          another block (Fig. 6c)
  {program} fit --data CIFARDataModule --data.root data/ --data.download true   real images
  {python} -c {code}    the fused network"""


def demo(epochs: int = 15, seed: int = 0, runs_dir: str = "runs") -> None:
    """Train Cifar-quick plain and as ACNet on scikit-learn's handwritten digits; fold, check and rotate both.

    Args:
        epochs: Epochs of each training.
        seed: Seed of both.
        runs_dir: Where runs/NAME/TIME is made.
    """
    from rich.console import Console

    from acnet_pl.cli import lightning
    from acnet_pl.cli.summary import comparison

    console = Console(markup=False, emoji=False)
    summaries = {}
    for title, conv in (("plain", ["PlainConv"]), ("ACNet", ["ACBConv", "--model.conv.gamma_init", "0.333"])):
        console.rule(f"{title}: training {epochs} epochs")
        command = ["fit", "--model.conv", *conv, "--trainer.max_epochs", str(epochs), "--seed_everything", str(seed)]
        command += ["--name", f"demo-{title.lower()}", "--runs_dir", runs_dir, "--wandb.tags+", "demo"]
        folder = lightning.run(command)
        summaries[title] = json.loads((folder / "summary.json").read_text())
    console.rule("plain and ACNet side by side")
    console.print(comparison(summaries))
    console.print(
        "300 test digits: one more or less right is 0.33 %. The folded networks are alike in structure and cost.\n"
        "Written:",
        *(f"\n  {summary['folder']}" for summary in summaries.values()),
        soft_wrap=True,
        highlight=False,
    )
    code = f"import acnet_pl; print(acnet_pl.load_fused({summaries['ACNet']['fused']['path']!r}))"
    following = _NEXT.format(program=program(), python=python(), code=shlex.quote(code))
    console.print(following, soft_wrap=True, highlight=False)


def run(args: Sequence[str]) -> None:
    """Parse the options and run the demonstration."""
    run_function(demo, args, _EXAMPLES)
