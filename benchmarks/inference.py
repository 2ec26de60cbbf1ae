"""How fast is the fused ACNet? Plain network, ACNet unfused and ACNet fused, side by side in one process.

The plain network is fused too (its batch norms into its convolutions), as anybody would deploy it. Each contender runs
in PyTorch and in onnxruntime. Every round times each of them once, in an order that rotates, so that a slow moment of
the machine hits all alike; ratios are medians over rounds of the ratio within a round. Where in memory a network lies
makes a difference of some per cent, so all are copied afresh several times, and a second copy of the plain network
takes part: how far its ratio is from 1 is how far the others can be trusted.

    python benchmarks/inference.py
    python benchmarks/inference.py --rounds 101 --clock cpu --out benchmarks/results/inference.json

On a machine that does other work meanwhile, ``--clock cpu`` counts the time that this process has computed instead.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from acnet_pl.backbones import CifarQuick, ResNetCifar
from acnet_pl.export import export_model
from acnet_pl.nn import ACBConv, ConvBuilder, FusibleConv, PlainConv, explicit_branches, fuse_model
from record import write_record

Contender = Callable[[], object]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
NETWORKS: dict[str, Callable[[ConvBuilder], nn.Module]] = {
    "Cifar-quick": lambda conv: CifarQuick(conv, 10),
    "ResNet-20": lambda conv: ResNetCifar(conv, 10, depth=20),
}
CONTENDERS = ("plain", "plain again", "acnet unfolded", "acnet folded")
COPIES = 8
LEAST_SECONDS = 0.01  # of one timing; shorter calls are repeated


def in_torch(model: nn.Module, x: Tensor) -> Contender:
    model = copy.deepcopy(model)

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def write_onnx(model: nn.Module, x: Tensor, path: Path) -> Path:
    """A fused model by way of `export_model`, which verifies it; one with blocks as its three branches."""
    if not any(isinstance(module, FusibleConv) for module in model.modules()):
        return export_model(model, path, "onnx", example_input=x).path
    with warnings.catch_warnings(), explicit_branches(model):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    return path


def in_onnxruntime(path: Path, x: Tensor, threads: int) -> Contender:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def interleaved(contenders: dict[str, Contender], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of one call of each contender in each round."""
    for contender in contenders.values():
        contender()
    start = clock()
    next(iter(contenders.values()))()
    repeats = max(1, round(LEAST_SECONDS / max(clock() - start, 1e-6)))
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 2):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start = clock()
            for _ in range(repeats):
                contenders[name]()
            if index >= 2:  # the first rounds warm up
                seconds[name].append((clock() - start) / repeats)
    return seconds


def measure(name: str, batch: int, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time one network at one batch size in both runtimes."""
    torch.manual_seed(0)
    plain, acnet = (NETWORKS[name](conv).eval() for conv in (PlainConv(), ACBConv()))
    x = torch.randn(batch, 3, 32, 32)
    fused = fuse_model(plain, x)
    models = dict(zip(CONTENDERS, (fused, fused, acnet, fuse_model(acnet, x)), strict=True))
    files = {label: write_onnx(model, x, folder / f"{label}.onnx") for label, model in models.items()}
    rows = []
    for runtime in ("torch", "onnxruntime"):
        seconds: dict[str, list[float]] = {label: [] for label in CONTENDERS}
        for _ in range(COPIES):
            with explicit_branches(acnet):
                contenders = {
                    label: in_torch(models[label], x)
                    if runtime == "torch"
                    else in_onnxruntime(files[label], x, options.threads)
                    for label in CONTENDERS
                }
            for label, times in interleaved(contenders, -(-options.rounds // COPIES), CLOCKS[options.clock]).items():
                seconds[label] += times

        def ratio(label: str, seconds: dict[str, list[float]] = seconds) -> float:
            return statistics.median(a / b for a, b in zip(seconds[label], seconds["plain"], strict=True))

        rows.append(
            {
                "network": name,
                "batch": batch,
                "runtime": runtime,
                **{
                    f"{label.replace(' ', '_')}_ms": 1e3 * statistics.median(seconds[label])
                    for label in CONTENDERS
                    if label != "plain again"
                },
                "plain_again_to_plain": ratio("plain again"),
                "unfolded_to_plain": ratio("acnet unfolded"),
                "folded_to_plain": ratio("acnet folded"),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    result = Table(title="Inference (ratio to plain: 1.00 is as fast)", title_justify="left")
    for column in (
        "network",
        "batch",
        "runtime",
        "plain ms",
        "unfused ms",
        "fused ms",
        "again",
        "unfused",
        "fused",
    ):
        result.add_column(column, justify="left" if column in ("network", "runtime") else "right")
    for row in rows:
        network, batch, runtime, *numbers = row.values()
        result.add_row(network, str(batch), runtime, *(f"{number:.3f}" for number in numbers))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 30:
        parser.error(f"--rounds (={options.rounds}) must be at least 30: a median of fewer says little")
    torch.set_num_threads(options.threads)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            for batch in options.batches:
                rows += measure(name, batch, options, Path(folder))
    Console(width=120).print(table(rows))
    if options.out:
        figures = {
            "threads": options.threads,
            "clock": options.clock,
            "rounds": -(-options.rounds // COPIES) * COPIES,
            "copies": COPIES,
            "rows": rows,
        }
        write_record(options.out, figures, "onnx", "onnxruntime")


if __name__ == "__main__":
    main()
