"""What a training step of an ACNet costs against the plain network's: time, memory, and what arithmetic alone costs.

Forward, cross-entropy, backward and SGD with momentum, channels-last; eager and compiled, float32 and bfloat16
autocast. Every round times each contender once, one after the other, so that a slow moment of the machine hits all of
them; ratios are medians over rounds of the ratio within a round, with their quartiles.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --models resnet56 --modes eager-fp32 --steps 20 --reference PATH/acb.py

- The floor is plain's time with that part of it that are convolutions (measured by the profiler) multiplied by the
  ratio of multiplications in convolutions (counted by PyTorch's FLOP counter, forward and backward): 15/9 where k = 3.
  It supposes that 1×3 and 3×1 kernels multiply as fast as 3×3 ones, and that batch norms and additions cost nothing.
- "conv time" is the time in convolutions over plain's, "rest" that outside of them (batch norms, sums, ReLU, SGD): what
  of the ratio the library's convolutions account for, and what passes over memory.
- Memory on a GPU is the peak above what was allocated before the step. On a CPU it is a proxy: the bytes that autograd
  saves for the backward pass, each storage once, without the parameters (eager modes only).
- ``--reference`` takes part with the authors' own block, which their repository's acb.py holds.

On a machine that does other work meanwhile, ``--clock cpu`` counts the time that this process has computed instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.backbones import ResNet, ResNetCifar
from acnet_pl.nn import ACBConv, ConvBuilder, PlainConv
from record import write_record

MODES = ("eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
NETWORKS: dict[str, Callable[[ConvBuilder], nn.Module]] = {
    "resnet20": lambda conv: ResNetCifar(conv, 10, depth=20),
    "resnet56": lambda conv: ResNetCifar(conv, 10, depth=56),
    "resnet18": lambda conv: ResNet(conv, 1000, depth=18),
}
CONVS: dict[str, Callable[[], ConvBuilder]] = {
    "plain": PlainConv,
    "acnet": lambda: ACBConv(gamma_init=1 / 3),
    "share 1/8": lambda: ACBConv(gamma_init=1 / 3, statistics_share=1 / 8),
    "norm after sum": lambda: ACBConv(branch_norm=False),
    "scaled": lambda: ACBConv(branch_norm="scale"),
}


class ReferenceConv(ConvBuilder):
    """The authors' block, from a copy of their file."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("reference_acb", path)
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        norm: bool = True,
    ) -> nn.Module:
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if kernel_size < 3:
            return PlainConv()(in_channels, out_channels, kernel_size, norm=norm, **geometry)
        block: nn.Module = self.module.ACBlock(in_channels, out_channels, kernel_size, **geometry)
        return block


class Contender:
    """A network that trains, one `step` at a time, on the same batch."""

    def __init__(self, model: str, conv: ConvBuilder, mode: str, images: Tensor, labels: Tensor) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = NETWORKS[model](conv)
        self.network.to(device=images.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)
        self.batch = images, labels
        self.amp = mode.endswith("bf16")
        if mode.startswith("compiled"):
            self.network.compile()

    def loss(self) -> Tensor:
        images, labels = self.batch
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp):
            return F.cross_entropy(self.network(images), labels)

    def step(self) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(self.loss())
        self.optimizer.step()
        if self.batch[0].is_cuda:
            torch.cuda.synchronize()

    def macs(self) -> int:
        """Multiplications in the convolutions of a forward and backward pass."""
        counter = FlopCounterMode(display=False)
        with counter:
            torch.autograd.backward(self.loss())
        return sum(n for op, n in counter.get_flop_counts()["Global"].items() if "conv" in str(op)) // 2

    def convolution_share(self) -> float:
        """Part of the time of some steps that is spent in convolutions."""
        cuda = self.batch[0].is_cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        for steps in (1, 3):  # the first time neither the profiler nor this network's memory is warm
            with profile(activities=activities) as profiler:
                for _ in range(steps):
                    self.step()
        times = {
            event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
            for event in profiler.key_averages()
        }
        return float(sum(t for key, t in times.items() if "conv" in key) / sum(times.values()))

    def memory(self, mode: str) -> int | None:
        """Bytes, as the module's documentation says."""
        if self.batch[0].is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        if mode.startswith("compiled"):
            return None
        own = {p.untyped_storage().data_ptr() for p in self.network.parameters()}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.loss()  # alive, so that no storage is counted under the address of another
        del loss
        return sum(saved.values())


def measure(
    model: str, mode: str, convs: dict[str, ConvBuilder], options: argparse.Namespace, advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """Time all contenders in one mode."""
    torch.compiler.reset()
    size = options.image_size if model == "resnet18" else 32
    images = torch.randn(options.batch_size, 3, size, size, device=options.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch_size,), device=options.device)
    eager = mode.replace("compiled", "eager")
    macs = {name: Contender(model, conv, eager, images[:16], labels[:16]).macs() for name, conv in convs.items()}
    contenders = {name: Contender(model, conv, mode, images, labels) for name, conv in convs.items()}
    clock = CLOCKS[options.clock]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(options.steps + 2):
        for name, contender in contenders.items():
            start = clock()
            contender.step()
            if index >= 2:  # the first rounds compile and warm up
                seconds[name].append(clock() - start)
            advance()
    plain = statistics.median(seconds["plain"])
    shares = {name: contender.convolution_share() for name, contender in contenders.items()}
    share = shares["plain"]
    rows = []
    for name, contender in contenders.items():
        own_share = shares[name]
        ratios = [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        floor = 1 - share + share * macs[name] / macs["plain"]
        rows.append(
            {
                "model": model,
                "mode": mode,
                "contender": name,
                "ms": 1e3 * statistics.median(seconds[name]),
                "ratio": middle,
                "ratio_quartiles": [low, high],
                "macs_ratio": macs[name] / macs["plain"],
                "floor_ms": 1e3 * plain * floor,
                "over_floor": middle / floor,
                "convolution_share": own_share,
                "convolution_time_ratio": middle * own_share / share,
                "rest_time_ratio": middle * (1 - own_share) / (1 - share),
                "memory_mb": None if (memory := contender.memory(mode)) is None else memory / 1e6,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    result = Table(title="Training step (ratio to plain: 1.00 is as fast)", title_justify="left")
    columns = ("model", "mode", "", "ms", "ratio", "quartiles", "MACs", "over floor", "in convs", "conv time", "rest")
    for index, column in enumerate((*columns, "memory MB")):
        result.add_column(column, justify="left" if index < 3 else "right")
    for row in rows:
        low, high = row["ratio_quartiles"]
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        numbers = f"{row['ms']:.0f}", f"{row['ratio']:.2f}", f"{low:.2f}-{high:.2f}", f"{row['macs_ratio']:.2f}"
        shares = f"{row['over_floor']:.2f}", f"{row['convolution_share']:.0%}"
        parts = f"{row['convolution_time_ratio']:.2f}", f"{row['rest_time_ratio']:.2f}"
        result.add_row(row["model"], row["mode"], row["contender"], *numbers, *shares, *parts, memory)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(NETWORKS), default=["resnet56", "resnet18"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONVS), default=list(CONVS))
    parser.add_argument("--reference", type=Path, help="the authors' acb.py")
    parser.add_argument("--steps", type=int, default=15, help="of each contender")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224, help="for resnet18")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps (={options.steps}) must be at least 3, to have quartiles")
    torch.set_num_threads(options.threads)
    names = ["plain", *(name for name in options.contenders if name != "plain")]
    convs = {name: CONVS[name]() for name in names}
    if options.reference:
        convs["reference"] = ReferenceConv(options.reference)

    rows: list[dict[str, Any]] = []
    console = Console(width=140)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(options.models) * len(options.modes) * (options.steps + 2) * len(convs))
        for model in options.models:
            for mode in options.modes:
                progress.update(task, description=f"{model} {mode}")
                rows += measure(model, mode, convs, options, lambda: progress.advance(task))
    console.print(table(rows))
    if options.out:
        figures = {
            "device": options.device,
            "threads": options.threads,
            "clock": options.clock,
            "steps": options.steps,
            "batch_size": options.batch_size,
            "rows": rows,
        }
        write_record(options.out, figures)


if __name__ == "__main__":
    main()
