"""What a training step of an ACNet costs against the plain network's: time, memory, and what arithmetic alone costs.

Forward, cross-entropy, backward and SGD with momentum, channels-last; eager, as a CUDA graph, and compiled; float32 and
bfloat16 autocast. Each contender has a process of its own, so that all warm up and compile at once; they are timed one
after the other. Every round times each once, so that a slow moment of the machine hits all of them; ratios are medians
over rounds of the ratio within a round, with their quartiles. A row is printed, and the JSON file written, as soon as
it is known; ``--budget SECONDS`` shares its seconds out over models and modes and leaves out what does not fit.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --models resnet56 --modes eager-fp32 --steps 20 --reference PATH/acb.py
    python benchmarks/training_speed.py --device cuda --modes graph-bf16 compiled-bf16 --budget 150 --out speed.json

- "MACs" is the ratio of multiplications in convolutions (counted by PyTorch's FLOP counter, forward and backward).
- Memory on a GPU is the peak above what was allocated before an eager or compiled step. On a CPU it is a proxy: the
  bytes that autograd saves for the backward pass, each storage once, without the parameters (eager modes only).
- ``--profile`` adds, by PyTorch's profiler: the floor, plain's time with the part of it in convolutions times the
  ratio of multiplications, 15/9 where k = 3 (it supposes that 1×3 and 3×1 kernels multiply as fast as 3×3 ones, and
  that batch norms and additions cost nothing); and "conv time", the time in convolutions over plain's, and "rest", that
  outside of them (batch norms, sums, ReLU, SGD).
- ``--reference`` takes part with the authors' own block, which their repository's acb.py holds.

On a machine that does other work meanwhile, ``--clock cpu`` counts the time that a process has computed instead.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from acnet_pl.config.files import EXPERIMENTS, content_of
from acnet_pl.modules.architecture import build_conv
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv
from record import write_record
from step_contender import CLOCKS, NETWORKS, ReferenceConv, Remote


def _from_file(name: str) -> ConvBuilder:
    options = content_of(EXPERIMENTS / "conv" / f"{name}.yaml")["model"]["conv"]
    return build_conv({"class_path": options} if isinstance(options, str) else options)


CPU_MODES = ("eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16")
MODES = (*CPU_MODES, "graph-fp32", "graph-bf16")
CONVS: dict[str, Callable[[], ConvBuilder]] = {
    "plain": PlainConv,
    "acnet": lambda: ACBConv(gamma_init=1 / 3),
    "share 1/8": lambda: ACBConv(gamma_init=1 / 3, statistics_share=1 / 8),
    "share 1/16": lambda: ACBConv(gamma_init=1 / 3, statistics_share=1 / 16),
    "at once": lambda: ACBConv(gamma_init=1 / 3, at_once=True),
    "share 1/8 at once": lambda: ACBConv(gamma_init=1 / 3, statistics_share=1 / 8, at_once=True),
    "norm after sum": lambda: ACBConv(branch_norm=False),
    "scaled": lambda: ACBConv(branch_norm="scale"),
    # Other blocks, by the names that their files have in experiments/conv.
    **{name: partial(_from_file, name) for name in ("acb_plus", "dbb", "mobileone", "orepa", "repvgg")},
}
DEFAULT = ("plain", "acnet", "share 1/8", "norm after sum", "scaled")
LEAST_ROUNDS = 3  # for quartiles
Row = dict[str, Any]


def start(model: str, mode: str, convs: Mapping[str, ConvBuilder], options: argparse.Namespace) -> dict[str, Remote]:
    """Start a process for each contender."""
    return {name: Remote(model, conv, mode, options) for name, conv in convs.items()}


def measure(
    model: str,
    mode: str,
    convs: Mapping[str, ConvBuilder],
    options: argparse.Namespace,
    deadline: float = math.inf,
    remotes: Mapping[str, Remote] | None = None,
) -> list[Row]:
    """Time all contenders in one mode.

    Args:
        model: Key of `NETWORKS`.
        mode: One of `MODES`.
        convs: Contenders by name, with "plain".
        options: ``device``, ``batch_size``, ``image_size``, ``steps``, ``threads``, ``clock`` and ``profile``.
        deadline: Moment of ``time.monotonic`` at which to end; with fewer rounds, or contenders, if need be.
        remotes: The contenders' processes, if they were started before.

    Returns:
        A row for each contender; one that failed, or had no time, has ``failed`` and no figures.
    """
    remotes = start(model, mode, convs, options) if remotes is None else remotes
    cuda = torch.device(options.device).type == "cuda"
    try:
        # What is not ready when a fifth of the time is left could not be timed.
        patience = time.monotonic() + 0.8 * (deadline - time.monotonic())
        together = cuda or options.threads == 1  # else the threads of several processes would spin for the same cores
        for remote in remotes.values():
            remote.go()
            if not together:
                remote.ready(patience)
        for remote in remotes.values() if together else ():
            remote.ready(patience)
        seconds: dict[str, list[float]] = {name: [] for name, remote in remotes.items() if not remote.failure}
        for number in range(options.steps):
            if number >= LEAST_ROUNDS and time.monotonic() > deadline:
                break
            for name in list(seconds):
                value = remotes[name].seconds(deadline + 10)
                if remotes[name].failure:
                    del seconds[name]
                else:
                    seconds[name].append(value)
        shares = {name: remotes[name].convolution_share(deadline + 30) for name in seconds if options.profile}
        rows: list[Row] = [{"model": model, "mode": mode, "contender": name} for name in remotes]
        if "plain" not in seconds:
            return [row | {"failed": remotes[row["contender"]].failure or "plain failed"} for row in rows]
        for row in rows:
            name, remote = row["contender"], remotes[row["contender"]]
            if name not in seconds:
                row["failed"] = remote.failure
                continue
            row |= _figures(seconds[name], seconds["plain"], remote.macs / remotes["plain"].macs)
            row["memory_mb"] = None if remote.memory is None else remote.memory / 1e6
            if options.profile:
                row |= _parts(row, statistics.median(seconds["plain"]), shares[name], shares["plain"])
        return rows
    finally:
        for remote in remotes.values():
            remote.close()


def _figures(own: list[float], plain: list[float], macs_ratio: float) -> Row:
    ratios = [a / b for a, b in zip(own, plain, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ms": 1e3 * statistics.median(own),
        "rounds": len(own),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "macs_ratio": macs_ratio,
    }


def _parts(row: Row, plain_seconds: float, share: float, plain_share: float) -> Row:
    if not (share and 0 < plain_share < 1):  # nothing could be profiled
        return {}
    floor = 1 - plain_share + plain_share * row["macs_ratio"]
    return {
        "floor_ms": 1e3 * plain_seconds * floor,
        "over_floor": row["ratio"] / floor,
        "convolution_share": share,
        "convolution_time_ratio": row["ratio"] * share / plain_share,
        "rest_time_ratio": row["ratio"] * (1 - share) / (1 - plain_share),
    }


def line(row: Row) -> str:
    """What is printed of a row when it is known."""
    name = f"{row['model']} {row['mode']} {row['contender']}: "
    if "failed" in row:
        return f"{name}left out, {row['failed']}"
    low, high = row["ratio_quartiles"]
    memory = "" if row["memory_mb"] is None else f", {row['memory_mb']:.0f} MB"
    return f"{name}{row['ms']:.2f} ms, {row['ratio']:.2f} ({low:.2f}-{high:.2f}) of plain{memory}"


def table(rows: list[Row]) -> Table:
    result = Table(title="Training step (ratio to plain: 1.00 is as fast)", title_justify="left")
    columns = ("model", "mode", "", "ms", "ratio", "quartiles", "MACs", "over floor", "in convs", "conv time", "rest")
    for index, column in enumerate((*columns, "memory MB")):
        result.add_column(column, justify="left" if index < 3 else "right")
    for row in rows:
        if "failed" in row:
            continue
        low, high = row["ratio_quartiles"]
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        numbers = f"{row['ms']:.2f}", f"{row['ratio']:.2f}", f"{low:.2f}-{high:.2f}", f"{row['macs_ratio']:.2f}"
        parts = ("over_floor", "convolution_share", "convolution_time_ratio", "rest_time_ratio")
        result.add_row(
            *(row["model"], row["mode"], row["contender"]),
            *numbers,
            *(f"{row[part]:.2f}" if part in row else "" for part in parts),
            memory,
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(NETWORKS), default=["resnet56", "resnet18"])
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: all that the device has")
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONVS), default=list(DEFAULT))
    parser.add_argument("--reference", type=Path, help="the authors' acb.py")
    parser.add_argument("--steps", type=int, default=15, help="rounds")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds for everything; default no limit")
    parser.add_argument("--profile", action="store_true", help="time convolutions apart from the rest, too")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224, help="for resnet18 and resnet50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cuda = torch.device(options.device).type == "cuda"
    options.modes = options.modes or (MODES if cuda else CPU_MODES)
    if options.steps < LEAST_ROUNDS:
        parser.error(f"--steps (={options.steps}) must be at least {LEAST_ROUNDS}, to have quartiles")
    if not cuda and (graphs := [mode for mode in options.modes if mode.startswith("graph")]):
        parser.error(f"--modes {graphs[0]} needs --device cuda")
    if options.reference and not options.reference.is_file():
        parser.error(f"--reference {options.reference}: there is no such file; give the authors' acb.py")
    end = time.monotonic() + options.budget
    names = ["plain", *(name for name in options.contenders if name != "plain")]
    convs: dict[str, ConvBuilder] = {name: CONVS[name]() for name in names}
    if options.reference:
        convs["reference"] = ReferenceConv(options.reference)

    rows: list[Row] = []
    groups = [(model, mode) for model in options.models for mode in options.modes]
    following = start(*groups[0], convs, options)
    for number, (model, mode) in enumerate(groups):
        # Twice its share, for the first has to begin; what a group leaves is for the others.
        deadline = time.monotonic() + min(1.0, 2 / (len(groups) - number)) * (end - time.monotonic())
        remotes, following = following, {}
        if cuda and number + 1 < len(groups):  # imports take seconds, which would disturb the clock of a CPU alone
            following = start(*groups[number + 1], convs, options)
        for row in measure(model, mode, convs, options, deadline, remotes or None):
            rows.append(row)
            print(line(row), flush=True)
        if options.out:
            figures = {name: getattr(options, name) for name in ("device", "threads", "clock", "steps", "batch_size")}
            write_record(options.out, {**figures, "image_size": options.image_size, "rows": rows})
    Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
