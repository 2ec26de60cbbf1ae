"""How far one training step turns the fused kernels: what the learning rate amounts to for each variant of the block.

Batch norm makes the length of a kernel immaterial, so the angle is what a step changes. A block splits each kernel, and
its gradient, into branches, and γ scales what reaches them; at the same learning rate an ACNet's fused kernels turn at
another speed than the plain network's. Measured on real images from fresh weights, SGD without momentum, kernels fused
with the statistics of one fixed batch before and after the step.

    python benchmarks/kernel_turning.py --data.root DIR --out benchmarks/results/kernel_turning.json
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from acnet_pl.backbones import ResNetCifar
from acnet_pl.data import CIFARDataModule
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, fuse_model
from record import write_record

VARIANTS: dict[str, ConvBuilder] = {
    "plain": PlainConv(),
    "ACNet, gamma 1/3": ACBConv(gamma_init=1 / 3),
    "ACNet, gamma 1": ACBConv(gamma_init=1),
    "horizontal only, gamma 1/3": ACBConv(vertical=False, gamma_init=1 / 3),
    "one batch norm after the sum": ACBConv(branch_norm=False),
    "scaled": ACBConv(branch_norm="scale"),
}


def fused_kernels(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The 3×3 kernels that the network would fuse to with the batch's own statistics, flat, float64."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # running statistics are those of the last batch
    with torch.no_grad():
        network.train()(images)
    fused = fuse_model(network.eval())
    network.train()
    convs = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    return [conv.weight.detach().double().flatten() for conv in convs if conv.kernel_size == (3, 3)]


def angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two vectors, exact for small angles."""
    a, b = a / a.norm(), b / b.norm()
    return float(torch.rad2deg(2 * torch.atan2((a - b).norm(), (a + b).norm())))


def turned(conv: ConvBuilder, batches: list[list[Tensor]], depth: int, seed: int, lr: float) -> list[float]:
    """Degrees by which each step turns each layer's fused kernel; the last batch gives the statistics."""
    torch.manual_seed(seed)
    network = ResNetCifar(conv, 10, depth=depth)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    fixed = batches[-1][0]
    angles: list[float] = []
    before = fused_kernels(network, fixed)
    for images, labels in batches[:-1]:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        optimizer.step()
        after = fused_kernels(network, fixed)
        angles += [angle(a, b) for a, b in zip(before, after, strict=True)]
        before = after
    return angles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", type=Path, required=True, help="of CIFAR-10")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("give at least two seeds: fresh networks differ")
    torch.set_num_threads(options.threads)
    data: Any = CIFARDataModule(root=str(options.root), verify=False, batch_size=options.batch_size)
    data.prepare_data()
    data.setup("fit")
    loader = iter(data.train_dataloader())
    batches = [data.on_after_batch_transfer(list(next(loader)), 0) for _ in range(options.steps + 1)]

    tasks = [(name, seed) for seed in options.seeds for name in VARIANTS]
    medians: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for name, seed in track(tasks, "Training", console=Console(stderr=True)):
        angles = turned(VARIANTS[name], batches, options.depth, seed, options.lr)
        medians[name].append(statistics.median(angles))
    rows: list[dict[str, Any]] = []
    for name, values in medians.items():
        logarithms = [math.log(value) for value in values]
        rows.append(
            {
                "variant": name,
                "degrees_per_step": values,
                "geometric_mean": math.exp(statistics.fmean(logarithms)),
                "standard_error_factor": math.exp(statistics.stdev(logarithms) / len(values) ** 0.5),
            }
        )
    table = Table("", "degrees a step", "standard error", "× plain")
    table.title = f"ResNet-{options.depth}, learning rate {options.lr}, {len(options.seeds)} seeds"
    for row in rows:
        mean, error = row["geometric_mean"], row["standard_error_factor"]
        relative = mean / rows[0]["geometric_mean"]
        table.add_row(row["variant"], f"{mean:.4f}", f"×÷ {error:.2f}", f"{relative:.2f}")
    Console().print(table)
    if options.out:
        figures = {
            "what": "median over layers and steps, one figure a seed; the mean of their logarithms",
            "seeds": options.seeds,
            "steps": options.steps,
            "learning_rate": options.lr,
            "batch_size": options.batch_size,
            "rows": rows,
        }
        write_record(options.out, figures)


if __name__ == "__main__":
    main()
