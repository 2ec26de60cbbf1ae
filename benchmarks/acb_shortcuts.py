"""What the two shortcuts of ACBlock cost, as ratios to plain convolution + batch norm.

1. Eval mode: one convolution with the fused kernel, made anew for every batch or kept (`keep_fused`), and with
   gradients of images and weights; against the plain layer and against three explicit branches.
2. A training step with ``branch_norm=False``: one convolution on the summed kernel, against the plain layer, the same
   block evaluated branch by branch, and the full block with a batch norm in every branch.

Every round times each contender once, one after the other, so that a slow moment of the machine hits all of them; the
ratios are medians over rounds of the ratio within a round.

    python benchmarks/acb_shortcuts.py                       # layers of ResNet-56 and a stack of them, CPU or GPU
    python benchmarks/acb_shortcuts.py --rounds 100 --out benchmarks/results/acb_shortcuts.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from acnet_pl.backbones import ResNetCifar
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv, explicit_branches, keep_fused
from record import write_record

Contender = Callable[[], object]
GRADIENTS = ("gradients", "…explicit")  # in eval mode
LAYERS = ((16, 32), (32, 16), (64, 8))  # channels and image side of the three stages of ResNet-56


def interleaved(contenders: dict[str, Contender], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds + 3):
        for name, contender in contenders.items():
            synchronise(device)
            start = time.perf_counter()
            contender()
            synchronise(device)
            if index >= 3:  # the first rounds warm up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def inference(model: nn.Module, x: Tensor, explicit: bool = False) -> Contender:
    model.eval()

    def run() -> object:
        with torch.no_grad():
            if explicit:
                with explicit_branches(model):
                    return model(x)
            return model(x)

    return run


def kept(model: nn.Module, x: Tensor) -> Contender:
    """One batch of many: the kernel is fused before."""
    model.eval()
    scope = ExitStack()  # lives, and keeps the kernel, as long as the contender
    scope.enter_context(keep_fused(model))

    def run() -> object:
        with torch.no_grad():
            return model(x)

    return partial(lambda scope: run(), scope)


def frozen_step(model: nn.Module, x: Tensor, explicit: bool = False) -> Contender:
    """Forward and backward in eval mode, as in fine-tuning with frozen batch norms."""
    model.eval()
    images = x.clone().requires_grad_()

    def run() -> None:
        with explicit_branches(model) if explicit else nullcontext():
            torch.autograd.backward(model(images).square().mean())

    return run


def training_step(model: nn.Module, x: Tensor, explicit: bool = False) -> Contender:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        out = model(x)
        torch.autograd.backward(out.square().mean())
        optimizer.step()

    def run_explicitly() -> None:
        with explicit_branches(model):
            run()

    return run_explicitly if explicit else run


def measure(name: str, build: Callable[[ConvBuilder], nn.Module], x: Tensor, rounds: int) -> dict[str, Any]:
    """Time one network or layer, built plain, as an ACNet, and as the ablation without batch norm in the branches."""

    def made(conv: ConvBuilder) -> nn.Module:
        torch.manual_seed(0)
        return build(conv).to(x.device)

    acnet, after_sum = ACBConv(), ACBConv(branch_norm=False)
    evaluated = interleaved(
        {
            "plain": inference(made(PlainConv()), x),
            "shortcut": inference(made(acnet), x),
            "explicit": inference(made(acnet), x, explicit=True),
            "kept": kept(made(acnet), x),
        },
        rounds,
        x.device,
    )
    frozen = interleaved(
        {
            "plain": frozen_step(made(PlainConv()), x),
            "shortcut": frozen_step(made(acnet), x),
            "explicit": frozen_step(made(acnet), x, explicit=True),
        },
        rounds,
        x.device,
    )
    trained = interleaved(
        {
            "plain": training_step(made(PlainConv()), x),
            "shortcut": training_step(made(after_sum), x),
            "explicit": training_step(made(after_sum), x, explicit=True),
            "acnet": training_step(made(acnet), x),
        },
        rounds,
        x.device,
    )
    return {
        "what": name,
        "batch": len(x),
        "plain_eval_ms": 1e3 * statistics.median(evaluated["plain"]),
        "eval_shortcut_to_plain": ratio(evaluated, "shortcut", "plain"),
        "eval_explicit_to_plain": ratio(evaluated, "explicit", "plain"),
        "eval_kept_to_plain": ratio(evaluated, "kept", "plain"),
        "eval_gradients_shortcut_to_plain": ratio(frozen, "shortcut", "plain"),
        "eval_gradients_explicit_to_plain": ratio(frozen, "explicit", "plain"),
        "plain_train_ms": 1e3 * statistics.median(trained["plain"]),
        "train_norm_after_sum_to_plain": ratio(trained, "shortcut", "plain"),
        "train_norm_after_sum_explicit_to_plain": ratio(trained, "explicit", "plain"),
        "train_acnet_to_plain": ratio(trained, "acnet", "plain"),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    result = Table(title="ACBlock against plain convolution + batch norm (ratio of times; 1.00 = as fast)")
    for column in (
        "",
        "batch",
        "plain eval ms",
        "shortcut",
        "explicit",
        "kept",
        *GRADIENTS,
        "plain train ms",
        "BN after sum",
    ):
        result.add_column(column, justify="left" if not column else "right")
    result.add_column("…explicit", justify="right")
    result.add_column("ACNet", justify="right")
    for row in rows:
        what, batch, *numbers = row.values()
        result.add_row(what, str(batch), *(f"{number:.2f}" for number in numbers))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--depth", type=int, default=56, help="of the ResNet; 0 leaves it out")
    parser.add_argument("--depth-batches", type=int, nargs="+", default=[32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    rows = []
    for channels, side in LAYERS:

        def layer(conv: ConvBuilder, channels: int = channels) -> nn.Module:
            return conv(channels, channels, 3, padding=1)

        for batch in arguments.batches:
            x = torch.randn(batch, channels, side, side, device=device)
            rows.append(measure(f"{channels} channels, {side}×{side}", layer, x, arguments.rounds))
    if arguments.depth:

        def network(conv: ConvBuilder) -> nn.Module:
            return ResNetCifar(conv, 10, depth=arguments.depth)

        for batch in arguments.depth_batches:
            x = torch.randn(batch, 3, 32, 32, device=device)
            rows.append(measure(f"ResNet-{arguments.depth}", network, x, arguments.rounds))
    Console(width=140).print(table(rows))
    if arguments.out:
        write_record(arguments.out, {"device": device.type, "rounds": arguments.rounds, "rows": rows})


if __name__ == "__main__":
    main()
