"""Traces from evaluating a network on an example input: every operation is seen, whatever decided on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acnet_pl.nn.surgery.trace import OPERATION, Trace, layers

__all__ = ["call", "trace_by_running"]


def trace_by_running(model: nn.Module, example_input: Any) -> list[Trace]:
    """Traces of an evaluation in eval mode and, where the example allows one, in train mode; changes buffers.

    Raises:
        ValueError: The model cannot be evaluated on the example.
    """
    traces = []
    devices = list({parameter.device for parameter in model.parameters() if parameter.is_cuda})
    for mode in (False, True):
        model.train(mode)
        with torch.random.fork_rng(devices), torch.no_grad():
            try:
                traces.append(_run(model, example_input))
            except Exception as error:
                if mode:  # such as a batch norm over a single value; eval mode showed what there is to see
                    continue
                raise ValueError(
                    f"the model cannot be evaluated on `example_input`: {type(error).__name__}: {error}"
                ) from error
    return traces


def call(model: Callable[..., Any], example_input: Any) -> Any:
    """Call a model with a tensor, a tuple of positional arguments or a mapping of keyword arguments."""
    if isinstance(example_input, Mapping):
        return model(**example_input)
    return model(*example_input) if isinstance(example_input, tuple) else model(example_input)


class _Recorder(TorchDispatchMode):
    """Sees every operation on tensors; those inside layers are the layers' own business."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.depth = 0
        self.maker: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, lest their ids be used again
        self.owner = {
            id(tensor): name for name, layer in layers(model) for tensor in [*layer.parameters(), *layer.buffers()]
        }

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.depth == 0:
            self.take((args, kwargs), OPERATION)
        return func(*args, **(kwargs or {}))

    def take(self, values: Any, consumer: str) -> None:
        """Note that the tensors among the values go to a consumer."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self.trace.edge(self.maker[id(value)][0] if id(value) in self.maker else OPERATION, consumer)
                if id(value) in self.owner:
                    self.trace.read.add(self.owner[id(value)])

    def enter(self, name: str, values: Any) -> None:
        if self.depth == 0:
            self.take(values, name)
            self.trace.calls[name] += 1
        self.depth += 1

    def leave(self, name: str, output: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            for value in tree_leaves(output):
                if isinstance(value, Tensor):
                    self.maker[id(value)] = (name, value)


def _run(model: nn.Module, example_input: Any) -> Trace:
    recorder = _Recorder(model)
    handles = []
    for name, layer in layers(model):

        def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            recorder.enter(name, (args, kwargs))

        def after(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            recorder.leave(name, output)

        handles += [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]
    try:
        with recorder:
            output = call(model, example_input)
        recorder.take(output, OPERATION)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.trace
