"""Images per second of one process and of several: training steps of ResNets, plain and as ACNet, under DDP.

    python benchmarks/scaling.py                                              # two processes on the CPU, a thread each
    python benchmarks/scaling.py --device cuda --processes 8 --batch 256 --bf16   # eight GPUs of this machine, NCCL
    torchrun --nnodes 8 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        benchmarks/scaling.py --device cuda --batch 256 --bf16 --out FILE     # on each of eight machines

Every process has the same number of images in a step, however many there are (weak scaling). Efficiency is images/s
of all processes over their number times images/s of one. It has two causes, so a third figure is taken: all processes
at once without exchanging gradients, which share cores, caches and memory and nothing else. Contenders take turns in
every round, so that a slow moment of the machine hits them alike, and ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from acnet_pl.backbones import ResNetCifar
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv
from acnet_pl.provenance import processor
from record import write_record

CONVS: dict[str, Callable[[], ConvBuilder]] = {
    "plain": PlainConv,
    "ACNet": ACBConv,
    "BN after the sum": lambda: ACBConv(branch_norm=False),
}
WAYS = ("one", "apart", "together")  # one process; all of them, not exchanging gradients; all of them, exchanging


def trainer(depth: int, conv: ConvBuilder, device: torch.device, options: argparse.Namespace) -> Callable[[bool], None]:
    """A training step on random images; its argument is whether gradients are exchanged."""
    torch.manual_seed(0)
    network = ResNetCifar(conv, 10, depth=depth).to(device).to(memory_format=torch.channels_last)
    model: nn.Module = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    assert isinstance(model, DistributedDataParallel)
    images = torch.randn(options.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (options.batch,), device=device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step(exchange: bool) -> None:
        optimizer.zero_grad()
        # Without exchange the bare network is trained: DDP would also have sent the batch norms' statistics.
        module = model if exchange else network
        with torch.autocast(device.type, torch.bfloat16) if options.bf16 else nullcontext():
            loss = F.cross_entropy(module(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def seconds(step: Callable[[bool], None], way: str, steps: int, rank: int, group: Any, device: torch.device) -> float:
    """Until the slowest process has done its steps, the others waiting; processes that take no part wait too."""
    dist.barrier(group)
    start = time.perf_counter()
    if way != "one" or rank == 0:
        for _ in range(steps):
            step(way == "together")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    dist.barrier(group)
    return time.perf_counter() - start


def work(rank: int, options: argparse.Namespace, local_rank: int | None = None) -> None:
    torch.set_num_threads(options.threads)
    device = torch.device(options.device, rank if local_rank is None else local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=options.processes)
    group = dist.new_group(backend="gloo")  # to wait in, without occupying a GPU
    assert isinstance(group, dist.ProcessGroup)
    rows = []
    for depth in options.depths:
        steps = {conv: trainer(depth, CONVS[conv](), device, options) for conv in options.convs}
        for step in steps.values():
            seconds(step, "together", options.warm_up, rank, group, device)
        taken: dict[tuple[str, str], list[float]] = {(conv, way): [] for conv in steps for way in WAYS}
        for _ in range(options.rounds):
            for (conv, way), rounds in taken.items():
                rounds.append(seconds(steps[conv], way, options.steps, rank, group, device))
        rows += [summary(depth, conv, {way: taken[conv, way] for way in WAYS}, options) for conv in steps]
    if rank == 0:
        report(rows, options, torch.cuda.get_device_name() if device.type == "cuda" else processor())
    dist.barrier(group)
    dist.destroy_process_group()


def summary(depth: int, conv: str, taken: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    images = options.batch * options.steps
    ratios = {way: [one / all_ for one, all_ in zip(taken["one"], taken[way], strict=True)] for way in WAYS[1:]}
    return {
        "network": f"ResNet-{depth}",
        "conv": conv,
        "images_per_second_of_one": images / statistics.median(taken["one"]),
        "images_per_second_together": options.processes * images / statistics.median(taken["together"]),
        "efficiency": statistics.median(ratios["together"]),
        "efficiency_without_exchange": statistics.median(ratios["apart"]),
        "efficiency_range": [min(ratios["together"]), max(ratios["together"])],
    }


def report(rows: list[dict[str, Any]], options: argparse.Namespace, device: str) -> None:
    title = f"{options.processes} processes, {options.batch} images each, {device}"
    table = Table(
        "network", "conv", "images/s of 1", f"of {options.processes}", "efficiency", "no exchange", title=title
    )
    for row in rows:
        figures = (f"{row[key]:,.0f}" for key in ("images_per_second_of_one", "images_per_second_together"))
        shares = (f"{row[key]:.0%}" for key in ("efficiency", "efficiency_without_exchange"))
        table.add_row(row["network"], row["conv"], *figures, *shares)
    Console(width=120).print(table)
    result = {
        "processes": options.processes,
        "threads_per_process": options.threads,
        "images_per_process_and_step": options.batch,
        "steps": options.steps,
        "rounds": options.rounds,
        "bf16": options.bf16,
        "backend": "nccl" if options.device == "cuda" else "gloo",
        "load_average_before": options.load,
        "rows": rows,
    }
    load = options.load[0]
    if options.device == "cpu" and load > 0.5:
        result["note"] = (
            f"The machine was busy before this was measured (load average {load:.1f} on {os.cpu_count()} cores): "
            "several processes had less of it to themselves than one had, so efficiency is underestimated."
        )
    if options.out is not None:
        write_record(options.out, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 56])
    parser.add_argument("--convs", nargs="+", choices=CONVS, default=["plain", "ACNet"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="under torchrun: as many as it starts")
    parser.add_argument("--batch", type=int, default=32, help="images of each process in a step")
    parser.add_argument("--steps", type=int, default=2, help="timed at a stretch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2, help="steps before")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--out", type=Path, help="JSON, for example benchmarks/results/scaling.json")
    options = parser.parse_args()
    options.load = os.getloadavg()
    gpus = torch.cuda.device_count()
    if options.device == "cuda" and "RANK" not in os.environ and options.processes > gpus:
        parser.error(f"--processes {options.processes} needs as many GPUs, this machine has {gpus}")
    if "RANK" in os.environ:
        options.processes = int(os.environ["WORLD_SIZE"])
        work(int(os.environ["RANK"]), options, int(os.environ["LOCAL_RANK"]))
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    spawn(work, (options,), nprocs=options.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
