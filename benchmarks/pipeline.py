"""A whole training as `fit` does it, plain network and ACNet: how much of it is the training step, and what that costs.

Loading, augmentation on the device, forward and backward pass, optimizer, metrics, checks: an epoch's time is from its
beginning to the end of its last training step, without validation. The training step alone is timed by
training_speed.py, for both networks in turn; its floor and its memory are explained there.

    python benchmarks/pipeline.py --data.root DIR --epochs 40 --target 0.94 --out benchmarks/results/pipeline.json
    python benchmarks/pipeline.py --data.root DIR --model resnet20 --epochs 2 --no-compile --limit 40

- The first epoch compiles and warms up; images/s and the share outside of the step are medians of the others.
- The share is for a GPU. On a processor steps of two networks in turn displace each other's memory and take longer than
  in a training, so that it may come out negative.
- "to target" is the training time, compilation and all, up to the first epoch with that validation accuracy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import SGD

from acnet_pl.backbones import ResNetCifar
from acnet_pl.callbacks import NonFiniteCheck, ProgressBar
from acnet_pl.data import CIFARDataModule
from acnet_pl.modules import CosineSchedule, ImageClassifier
from acnet_pl.nn import ConvBuilder
from record import write_record
from training_speed import CONVS, measure

BACKBONES: dict[str, Callable[[ConvBuilder, int], nn.Module]] = {
    "resnet20": partial(ResNetCifar, depth=20),
    "resnet56": partial(ResNetCifar, depth=56),
}


class EpochClock(pl.Callback):
    """Seconds of every epoch's training, and the validation accuracy after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracy: list[float] = []
        self.steps = 0
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start, self.steps = _now(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        if trainer.is_last_batch:
            self.seconds.append(_now() - self._start)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.accuracy.append(float(trainer.callback_metrics["val/top1"]))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train(conv: ConvBuilder, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network from scratch."""
    torch.compiler.reset()
    pl.seed_everything(options.seed, verbose=False)
    clock = EpochClock()
    cuda = options.device == "cuda"
    model = ImageClassifier(
        BACKBONES[options.model],
        conv,
        optimizer=partial(SGD, lr=options.lr, momentum=0.9, weight_decay=1e-4),
        schedule=CosineSchedule(warmup_epochs=min(5, options.epochs / 5)),
        channels_last=True,
        compile=options.compile,
    )
    trainer = pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision=options.precision,
        max_epochs=options.epochs,
        limit_train_batches=options.limit,
        limit_val_batches=options.limit,
        callbacks=[clock, NonFiniteCheck(), ProgressBar()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    data = CIFARDataModule(
        root=options.root, verify=not options.no_verify, val_size=0, batch_size=options.batch_size, seed=options.seed
    )
    trainer.fit(model, datamodule=data)
    reached = next((i for i, accuracy in enumerate(clock.accuracy) if accuracy >= options.target), None)
    usual = statistics.median(clock.seconds[1:])
    return {
        "images_per_second": clock.steps * options.batch_size / usual,
        "first_epoch_seconds": clock.seconds[0],
        "epoch_seconds": usual,
        "steps": clock.steps,
        "val_top1": clock.accuracy,
        "seconds_to_target": None if reached is None else sum(clock.seconds[: reached + 1]),
        "epochs_to_target": None if reached is None else reached + 1,
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else None,
    }


def table(rows: list[dict[str, Any]], target: float) -> Table:
    columns = ("images/s", "epoch, s", "step, ms", "outside of steps", "ratio", "over floor", "last top-1")
    result = Table("", *columns, f"to {target:.0%}, s", "peak MB", title="Training", title_justify="left")
    for row in rows:
        step = f"{row['ms']:.1f}" if "ms" in row else "—"
        figures = f"{row['images_per_second']:,.0f}", f"{row['epoch_seconds']:.1f}", step
        shares = (
            f"{row['share_outside_of_steps']:.1%}" if "ms" in row else "—",
            f"{row['epoch_ratio']:.2f}",
            f"{row['over_floor']:.2f}" if "over_floor" in row else "—",
        )
        seconds = "—" if row["seconds_to_target"] is None else f"{row['seconds_to_target']:.0f}"
        memory = "—" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f}"
        result.add_row(row["contender"], *figures, *shares, f"{row['val_top1'][-1]:.2%}", seconds, memory)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="of CIFAR-10")
    parser.add_argument("--data-name", default="CIFAR-10", help="what to call the images in the results")
    parser.add_argument("--no-verify", action="store_true", help="the batches are a copy with other checksums")
    parser.add_argument("--model", choices=tuple(BACKBONES), default="resnet56")
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONVS), default=["plain", "acnet"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--limit", type=float, default=1.0, help="batches of an epoch, as a share or a number above 1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=30, help="of each network, for the training step alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"--epochs (={options.epochs}) must be at least 2: the first compiles and warms up")
    options.limit = int(options.limit) if options.limit > 1 else options.limit
    options.clock, options.image_size, options.profile = "wall", 32, True  # as training_speed.py calls them
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # as `fit` does

    names = ["plain", *(name for name in options.contenders if name != "plain")]
    convs = {name: CONVS[name]() for name in names}
    trained = {name: train(conv, options) for name, conv in convs.items()}
    mode = ("compiled" if options.compile else "eager") + ("-bf16" if options.precision == "bf16-mixed" else "-fp32")
    rows = []
    for row in measure(options.model, mode, convs, options):
        own = trained[row["contender"]]
        ratio = own["epoch_seconds"] / trained["plain"]["epoch_seconds"]
        rows.append({**row, **own, "epoch_ratio": ratio})
        if "ms" in row:  # it could be timed
            in_steps = own["steps"] * row["ms"] / 1e3
            rows[-1]["share_outside_of_steps"] = 1 - in_steps / own["epoch_seconds"]
    Console(width=140, file=sys.stdout).print(table(rows, options.target))
    if options.out:
        figures = {
            "data": options.data_name,
            **{name: getattr(options, name) for name in ("device", "threads", "precision", "compile", "target")},
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "seed": options.seed,
            "rows": rows,
        }
        write_record(options.out, figures)


if __name__ == "__main__":
    main()
