"""What a batch in eval mode costs an ACNet, relative to the plain network: fused for each batch, kept, or by branches.

    python benchmarks/evaluation_speed.py --out benchmarks/results/evaluation_speed.json
    python benchmarks/evaluation_speed.py --device cuda --models resnet18 resnet56

Contenders: the ACNet as it is, which makes its kernels for every batch ("each batch"), the same within `keep_fused`
("kept"), evaluated branch by branch ("branches"), and both networks fused. Each without gradients, with those of the
images (saliency maps) and with those of the weights (fine-tuning with frozen batch norms).

Every round times each contender, one after the other; ratios are medians over rounds of the ratio within a round. On a
CPU time is that of the process, so that others on the machine matter less. Operations are calls of PyTorch's operators,
the backward pass included. float32 as `fit` has it (TF32 on a GPU), channels-last. A row is printed, and the JSON file
written, as soon as it is known. For CPUs and onnxruntime see inference.py.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, explicit_branches, fuse_model, keep_fused
from record import write_record
from step_contender import CLOCKS, IMAGENET, NETWORKS

GRADIENTS = ("none", "images", "weights")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that are called."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@dataclass
class Contender:
    """A network in eval mode, and the context in which it is evaluated."""

    name: str
    network: nn.Module
    context: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext

    def evaluate(self, images: Tensor, gradients: str) -> None:
        if gradients == "none":
            with torch.no_grad():
                self.network(images)
            return
        self.network.requires_grad_(gradients == "weights")
        images = images.detach().requires_grad_(gradients == "images")
        torch.autograd.backward(self.network(images).square().sum())
        self.network.zero_grad()


def contenders(model: str, device: str) -> list[Contender]:
    def made(conv: ConvBuilder) -> nn.Module:
        torch.manual_seed(0)
        return NETWORKS[model](conv).to(device).to(memory_format=torch.channels_last).eval()

    plain, acnet = made(PlainConv()), made(ACBConv())
    return [
        Contender("plain", plain),
        Contender("each batch", acnet),
        Contender("kept", acnet, keep_fused),
        Contender("branches", acnet, explicit_branches),
        Contender("plain fused", fuse_model(plain)),
        Contender("acnet fused", fuse_model(acnet)),
    ]


def measure(model: str, batch: int, gradients: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each contender."""
    size = options.image_size if model in IMAGENET else 32
    images = torch.randn(batch, 3, size, size, device=options.device).to(memory_format=torch.channels_last)
    found = contenders(model, options.device)
    seconds: dict[str, list[float]] = {one.name: [] for one in found}
    counts: dict[str, tuple[int, int]] = {}
    for _ in range(options.rounds):
        for one in found:
            with one.context(one.network):
                one.evaluate(images, gradients)  # warms up, and makes what is kept
                times = [_seconds(one, images, gradients, options.device) for _ in range(options.repeats)]
                seconds[one.name].append(min(times))
                if one.name not in counts:
                    with Operations() as operations:  # type: ignore[no-untyped-call]
                        one.evaluate(images, gradients)
                    with FlopCounterMode(display=False) as multiplications:
                        one.evaluate(images, gradients)
                    counts[one.name] = operations.count, multiplications.get_total_flops()
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        yield {
            **{"model": model, "batch": batch, "gradients": gradients, "contender": name},
            **{"ms": 1e3 * statistics.median(own), "ratio": middle, "ratio_quartiles": [low, high]},
            **{"operations": counts[name][0], "macs_ratio": counts[name][1] / counts["plain"][1]},
        }


def _seconds(contender: Contender, images: Tensor, gradients: str, device: str) -> float:
    clock = CLOCKS["wall" if device == "cuda" else "cpu"]
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    contender.evaluate(images, gradients)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(NETWORKS), default=["resnet20"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--gradients", nargs="+", choices=GRADIENTS, default=GRADIENTS)
    parser.add_argument("--image-size", type=int, default=224, help="for resnet18 and resnet50")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3, help="in a round, of which the fastest counts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error(f"--rounds (={options.rounds}) must be at least 3, to have quartiles")
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")  # as `fit` does
    figures = {name: getattr(options, name) for name in ("device", "threads", "rounds", "repeats", "image_size")}
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for gradients in options.gradients:
            for batch in options.batch_sizes:
                for row in measure(model, batch, gradients, options):
                    rows.append(row)
                    low, high = row["ratio_quartiles"]
                    said = f"{model}, batch {batch}, gradients {gradients}, {row['contender']}: {row['ms']:.2f} ms, "
                    said += f"{row['ratio']:.2f} ({low:.2f}-{high:.2f}) of plain, {row['operations']} operations"
                    print(said, flush=True)
                    if options.out:
                        write_record(options.out, {**figures, "rows": rows})


if __name__ == "__main__":
    main()
