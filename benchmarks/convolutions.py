"""What the library's 1×3 and 3×1 convolutions cost beside its 3×3 one: no ACNet trains faster than these.

Forward, gradient of the input ("data") and of the kernel ("weight") of each kernel size, by PyTorch's own operators on
channels-last tensors, one after the other in every round. "sum" is the time of all three sizes over that of 3×3: by
multiplications it would be (9 + 3 + 3) / 9 = 1.67. Ratios are medians over rounds of the ratio within a round.

    python benchmarks/convolutions.py --out benchmarks/results/convolutions.json
    python benchmarks/convolutions.py --dtypes bfloat16 --layers 64x56 128x28 256x14 512x7 --batch-size 64
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from record import write_record

SIZES = {"3×3": (3, 3), "1×3": (1, 3), "3×1": (3, 1)}
WAYS = ("forward", "data", "weight")
Timed = dict[tuple[str, str], list[float]]


def operators(x: Tensor, gradient: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
    """Each convolution of a layer with as many channels out as in, by (way, kernel size)."""
    channels = x.shape[1]
    found: dict[tuple[str, str], Callable[[], object]] = {}
    for name, size in SIZES.items():
        kernel = torch.randn(channels, channels, *size, device=x.device, dtype=x.dtype)
        kernel = kernel.to(memory_format=torch.channels_last)
        geometry = [1, 1], [size[0] // 2, size[1] // 2], [1, 1], False, [0, 0], 1  # stride, padding, dilation, ...
        backward = partial(torch.ops.aten.convolution_backward, gradient, x, kernel, None, *geometry)
        found["forward", name] = partial(torch.ops.aten.convolution, x, kernel, None, *geometry)
        found["data", name] = partial(backward, [True, False, False])
        found["weight", name] = partial(backward, [False, True, False])
    return found


def measure(x: Tensor, rounds: int) -> Timed:
    """Seconds of each operator in each round, after two rounds of warm-up."""
    timed = operators(x, torch.randn_like(x))
    seconds: Timed = {key: [] for key in timed}
    for index in range(rounds + 2):
        for key, operator in timed.items():
            start = time.perf_counter()
            operator()
            if x.is_cuda:
                torch.cuda.synchronize()
            if index >= 2:
                seconds[key].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Timed, sizes: tuple[str, ...], ways: tuple[str, ...]) -> float:
    """Median over rounds of the time of these kernel sizes over that of 3×3."""
    rounds = range(len(seconds["forward", "3×3"]))
    return statistics.median(
        sum(seconds[way, size][r] for way in ways for size in sizes) / sum(seconds[way, "3×3"][r] for way in ways)
        for r in rounds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["16x32", "32x16", "64x8"], help="channels x height and width")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title="Time over that of the 3×3 convolution", title_justify="left")
    for column in ("layer", "dtype", "3×3, ms", "1×3", "3×1", *(f"sum, {way}" for way in WAYS), "sum"):
        table.add_column(column, justify="right")
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(options.layers) * len(options.dtypes))
        for dtype in options.dtypes:
            for layer in options.layers:
                channels, side = map(int, layer.split("x"))
                x = torch.randn(options.batch_size, channels, side, side, device=options.device)
                x = x.to(getattr(torch, dtype), memory_format=torch.channels_last)
                seconds = measure(x, options.rounds)
                row = {
                    "layer": f"{channels} channels, {side}×{side}",
                    "dtype": dtype,
                    "square_ms": 1e3 * sum(statistics.median(seconds[way, "3×3"]) for way in WAYS),
                    "1×3": ratio(seconds, ("1×3",), WAYS),
                    "3×1": ratio(seconds, ("3×1",), WAYS),
                    **{f"sum_{way}": ratio(seconds, tuple(SIZES), (way,)) for way in WAYS},
                    "sum": ratio(seconds, tuple(SIZES), WAYS),
                }
                rows.append(row)
                table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
                progress.advance(task)
    Console(width=120).print(table)
    if options.out:
        figures = {
            "device": options.device,
            "threads": options.threads,
            "batch_size": options.batch_size,
            "rounds": options.rounds,
            "rows": rows,
        }
        write_record(options.out, figures)


if __name__ == "__main__":
    main()
