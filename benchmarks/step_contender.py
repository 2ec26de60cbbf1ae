"""A network that trains on one batch, in a process of its own: it compiles beside the others and is timed alone."""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.backbones import CifarQuick, ResNet, ResNetCifar
from acnet_pl.nn import ConvBuilder, PlainConv

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
NETWORKS: dict[str, Callable[[ConvBuilder], nn.Module]] = {
    "cifar_quick": lambda conv: CifarQuick(conv, 10),
    "resnet20": lambda conv: ResNetCifar(conv, 10, depth=20),
    "resnet56": lambda conv: ResNetCifar(conv, 10, depth=56),
    "resnet18": lambda conv: ResNet(conv, 1000, depth=18),
    "resnet50": lambda conv: ResNet(conv, 1000, depth=50),
}
IMAGENET = ("resnet18", "resnet50")
_LEAST_SECONDS = 0.01  # of one timing; shorter steps are repeated
_WARM_UP = 3
_COUNTED = 32  # images for which multiplications are counted: two are the least that blocks take as a share of a batch
_FOREVER = 1e6


class ReferenceConv(ConvBuilder):
    """The authors' block, from a copy of their file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, norm: bool = True, **geometry: Any
    ) -> nn.Module:
        if kernel_size < 3:
            return PlainConv()(in_channels, out_channels, kernel_size, norm=norm, **geometry)
        spec = importlib.util.spec_from_file_location("reference_acb", self.path)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        block: nn.Module = module.ACBlock(in_channels, out_channels, kernel_size, **geometry)
        return block


class Contender:
    """A network that trains, one `step` at a time, on the same batch."""

    def __init__(self, model: str, conv: ConvBuilder, mode: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        size = options.image_size if model in IMAGENET else 32
        self.kind, _, precision = mode.partition("-")
        self.amp = precision == "bf16"
        self.cuda = torch.device(options.device).type == "cuda"
        images = torch.randn(options.batch_size, 3, size, size, device=options.device)
        self.batch = (
            images.to(memory_format=torch.channels_last),
            torch.randint(10, (options.batch_size,), device=options.device),
        )
        self.network = NETWORKS[model](conv).to(options.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)
        if self.kind == "compiled":
            self.network.compile()
        self._graph: torch.cuda.CUDAGraph | None = None

    def loss(self) -> Tensor:
        images, labels = self.batch
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp):
            return F.cross_entropy(self.network(images), labels)

    def launch(self) -> None:
        """A step whose end is not waited for."""
        if self._graph is not None:
            self._graph.replay()
            return
        self.optimizer.zero_grad()
        torch.autograd.backward(self.loss())
        self.optimizer.step()

    def step(self) -> None:
        self.launch()
        self.wait()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def capture(self) -> None:
        """Record a step as a CUDA graph."""
        self.optimizer.zero_grad()
        torch.cuda.empty_cache()  # of the stream before: contenders share the card, and the largest nets fill it
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.launch()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.launch()
        self._graph = graph

    def macs(self) -> int:
        """Multiplications in the convolutions of a forward and backward pass, for one image."""
        images, labels = (part[:_COUNTED] for part in self.batch)
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            torch.autograd.backward(F.cross_entropy(self.network(images), labels))
        return int(sum(n for op, n in counter.get_flop_counts()["Global"].items() if "conv" in str(op))) // (
            2 * len(labels)
        )

    def convolution_share(self) -> float:
        """Part of the time of some steps that is spent in convolutions."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        for steps in (1, 3):  # the first time neither the profiler nor this network's memory is warm
            with profile(activities=activities) as profiler:
                for _ in range(steps):
                    self.step()
        times = {
            event.key: event.self_device_time_total if self.cuda else event.self_cpu_time_total
            for event in profiler.key_averages()
        }
        if not (total := sum(times.values())):
            return 0.0  # the machine lets nobody trace its GPU
        return float(sum(t for key, t in times.items() if "conv" in key) / total)

    def memory(self) -> int | None:
        """Bytes, as the documentation of training_speed.py says."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        if self.kind == "compiled":
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


class Remote:
    """A `Contender` in another process, which begins with `go`.

    Attributes:
        failure: Why it takes part no longer, if so.
        memory: Bytes that a step takes, if known.
        macs: Multiplications in convolutions, for one image.
    """

    def __init__(self, model: str, conv: ConvBuilder, mode: str, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, model, conv, mode, options), daemon=True)
        self._process.start()
        theirs.close()
        self.failure: str | None = None
        self.memory: int | None = None
        self.macs = 0

    def go(self) -> None:
        """Build the network and warm up. Until then the process has imported what it needs and waits."""
        self._connection.send("go")

    def ready(self, deadline: float) -> bool:
        """Wait until it has warmed up, or until a moment of ``time.monotonic``."""
        if (answer := self._answer(deadline)) is not None:
            self.memory, self.macs = answer
        return self.failure is None

    def seconds(self, deadline: float) -> float:
        """How long a step takes now."""
        return float(self._ask("step", deadline) or 0.0)

    def convolution_share(self, deadline: float) -> float:
        return float(self._ask("share", deadline) or 0.0)

    def close(self) -> None:
        self._process.terminate()
        self._process.join(2)
        self._process.kill()  # one that compiles may not listen
        self._process.join()
        self._connection.close()

    def _ask(self, what: str, deadline: float) -> Any:
        self._connection.send(what)
        return self._answer(deadline)

    def _answer(self, deadline: float) -> Any:
        try:
            if self._connection.poll(min(max(0.0, deadline - time.monotonic()), _FOREVER)):
                kind, value = self._connection.recv()
                if kind == "value":
                    return value
                self.failure = value
            else:
                self.failure = "not in the time"
        except (EOFError, ConnectionError):
            self.failure = "its process died"
        return None


def _serve(connection: Connection, model: str, conv: ConvBuilder, mode: str, options: argparse.Namespace) -> None:
    """Warm up, say so, then do what is asked."""
    torch.set_num_threads(options.threads)
    clock = CLOCKS[options.clock]
    try:
        connection.recv()
        contender = Contender(model, conv, mode, options)
        for _ in range(_WARM_UP):
            contender.step()
        known = contender.memory(), contender.macs()
        if contender.kind == "graph":
            contender.capture()
        start = time.perf_counter()
        contender.step()
        repeats = max(1, round(_LEAST_SECONDS / max(time.perf_counter() - start, 1e-6)))
        connection.send(("value", known))
        while True:
            what = connection.recv()
            if what == "share":
                connection.send(("value", contender.convolution_share()))
                continue
            contender.step()  # another process may have had the device
            start = clock()
            for _ in range(repeats):
                contender.launch()
            contender.wait()
            connection.send(("value", (clock() - start) / repeats))
    except EOFError:
        return
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"))
