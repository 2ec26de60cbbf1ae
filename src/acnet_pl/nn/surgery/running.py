"""Trace a network by evaluating it on an example input: every operation is recorded, whatever decided on it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from acnet_pl.nn.dispatch_mode import DispatchMode
from acnet_pl.nn.surgery.alive import still_alive
from acnet_pl.nn.surgery.copying import holds_values, leaves_inside
from acnet_pl.nn.surgery.handlers import Handlers
from acnet_pl.nn.surgery.surroundings import all_kept
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import OUTSIDE, Layer, Trace, layers, operation

__all__ = ["Recorder", "call", "cloned", "run", "trace_by_running"]

_UNRECORDED = ("numpy", "tolist", "__dlpack__", "__reduce_ex__")


def trace_by_running(model: nn.Module, example_input: Any) -> list[Trace]:
    """Trace an evaluation in eval mode and, if the example allows it, in train mode. Buffers may change.

    Raises:
        ValueError: The model cannot be evaluated on the example.
    """
    traces = []
    for mode in (False, True):
        try:
            traces.append(run(model.train(mode), model, example_input, Recorder(model)))
        except Exception as error:
            if mode:  # such as a batch norm over a single value; the trace in eval mode has to do
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


def cloned(example_input: Any) -> Any:
    """Return an example whose tensors, also those in objects, are clones, which a network may change in place."""
    clones: dict[int, Any] = {}

    def clone(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return clones.setdefault(id(leaf), leaf.detach().clone().requires_grad_(leaf.requires_grad))
        return copy.deepcopy(leaf, clones) if holds_values(leaf) and not isinstance(leaf, (type, nn.Module)) else leaf

    return tree_map(clone, example_input)


class Recorder(DispatchMode):
    """Records every operation on tensors, except those inside layers.

    Attributes:
        trace: What was recorded so far.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.depth = 0
        self.changes = 0  # number of operations in place so far
        # By id: the producers, the tensor, kept so that ids are not reused, and its memory, which code may exchange
        self.maker: dict[int, tuple[tuple[str, ...], Tensor, Any]] = {}
        self.outputs: dict[int, tuple[str, ...]] = {}  # by address of their memory, the layers whose outputs lie there
        self.exposed = False  # whether something other than PyTorch may change tensors from now on
        self.normed: dict[int, int] = {}  # for a batch norm's output, the number of changes before it
        self.owners = Owners(model)
        self._modules = {*model.modules()}
        self.handlers = Handlers(self._layers_of, self.owners.names, self._modules)

    def _layers_of(self, value: Any) -> Iterator[str]:
        if isinstance(value, Tensor) and self.depth == 0:
            yield from (name for name in self.made_by(value) if not name.startswith("<"))

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.depth or not isinstance(func, torch._ops.OpOverload):
            return func(*args, **(kwargs or {}))
        self.changes += func._schema.is_mutable
        if func is not torch.ops.aten.cat.default or len(args) != 2 or args[1] % args[0][0].dim() != 1:
            self.take((args, kwargs), operation(func.overloadpacket.__name__))
            return func(*args, **(kwargs or {}))
        for tensor in args[0]:
            self._take_alias(tensor)
        out = func(*args)
        self.made(out, tuple(part for tensor in args[0] for part in self.made_by(tensor)))
        return out

    def made(self, tensor: Tensor, producers: tuple[str, ...]) -> None:
        """Record the layers whose (concatenated) outputs a tensor is."""
        self.maker[id(tensor)] = producers, tensor, _memory(tensor)
        if address := _address(tensor):
            self.outputs[address] = producers

    def made_by(self, tensor: Tensor) -> tuple[str, ...]:
        """Return the layers whose (concatenated) outputs a tensor is, or the name of another producer."""
        producers, _, memory = self.maker.get(id(tensor), ((), None, None))
        return producers if producers and memory == _memory(tensor) else (operation("operation"),)

    def take(self, values: Any, consumer: str, norm: bool = False) -> None:
        """Record that the tensors among the values go to a consumer."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self.trace.edge(self.made_by(value), consumer, norm=norm)
                self._take_alias(value)
                if id(value) in self.normed and (self.exposed or self.normed[id(value)] != self.changes):
                    self.trace.changed.update(self.made_by(value))
                self.owners.use(value)

    def _take_alias(self, tensor: Tensor) -> None:
        """Record the use of an output as another tensor in the same memory, as nn.Parameter(y) makes one."""
        own = self.maker.get(id(tensor))
        if (own is None or own[2] != _memory(tensor)) and (producers := self.outputs.get(_address(tensor))):
            self.trace.edge(producers, operation("alias"))

    def enter(self, name: str, layer: Layer, values: Any, norm: bool) -> None:
        """Record that a layer is called."""
        if self.depth == 0:
            self.owners.call(layer)
            self.trace.visited.add(name)
            self.take(values, name, norm)
            self.handlers.note_call(name)
        self.depth += 1
        self.owners.calling = True

    def visit(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Record a call of any module, and whether it passed something on unchanged."""
        if self.depth == 0:
            self.trace.visited.add(name)
            given = {id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
            for value in tree_leaves(output):
                if id(value) in given and isinstance(value, Tensor):
                    if isinstance(module, _DropoutNd):  # which is off now
                        self.take(value, operation(type(module).__name__))
                    for producer in self.made_by(value):
                        self.trace.passed[producer].add(name)

    def leave(self, name: str, output: Any, norm: bool) -> None:
        """Record what a layer returned."""
        self.depth -= 1
        self.owners.calling = self.depth > 0
        if self.depth == 0:
            self.trace.calls[name] += 1
            for value in tree_leaves(output):
                if isinstance(value, Tensor):
                    self.made(value, (name,))
                    if norm:
                        self.normed[id(value)] = self.changes

    @contextmanager
    def watching_memory(self) -> Iterator[None]:
        """Record methods that give a tensor's memory or values away without an operation."""

        def noting(name: str) -> Any:
            method = getattr(Tensor, name)

            def give(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                if self.depth == 0:
                    self.take(tensor, operation(name))
                    self.exposed = True
                return method(tensor, *args, **kwargs)

            return give

        with patch.multiple(Tensor, **{name: noting(name) for name in _UNRECORDED}):
            yield

    @contextmanager
    def watching_unchanged(self) -> Iterator[None]:
        """Record what returns an output as it is now: functions of PyTorch, and modules that are not the model's."""

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if module not in self._modules and id(output) in self.maker:
                self.take_unchanged(output, output, type(module).__name__)

        handle = register_module_forward_hook(note)  # PyTorch does not forget a hook that asks for keyword arguments
        try:
            with _Functions(self):
                yield
        finally:
            handle.remove()

    def take_unchanged(self, values: Any, output: Any, consumer: str) -> None:
        """Record the outputs that are among the values: with other arguments they might not be."""
        if self.depth == 0 and isinstance(output, Tensor) and any(value is output for value in tree_leaves(values)):
            self.take(output, operation(consumer))

    def finish(self, output: Any) -> None:
        """Record the output, and what is kept elsewhere or within it: values of layers that are alive after the call.

        Nothing can be recorded afterwards.
        """
        given = list(leaves_inside(output))
        self.take(given, OUTSIDE)
        made = [(names, weakref.ref(value)) for names, value, _ in self.maker.values()]
        self.maker.clear()
        for names, _ in still_alive(made, given):
            self.trace.edge(names, OUTSIDE)


class _Functions(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.recorder.take_unchanged((args, kwargs), output, getattr(func, "__name__", "operation"))
        return output


def _memory(tensor: Tensor) -> Any:
    """Return where a tensor's values lie, which ``tensor.data = other`` changes without an operation."""
    if tensor.layout is not torch.strided:
        return None
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _address(tensor: Tensor) -> int:
    """Return where a tensor's memory begins, as it is for an alias that DLPack makes too; 0 if it has none."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return 0
    return int(tensor.untyped_storage().data_ptr())


def run(evaluate: Callable[..., Any], model: nn.Module, example_input: Any, recorder: Recorder) -> Trace:
    """Trace an evaluation of a model, called as it is or with more arguments. Buffers may change."""
    handles = [
        module.register_forward_hook(partial(recorder.visit, name), with_kwargs=True)
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    for name, layer in layers(model):
        norm = isinstance(layer, _BatchNorm)

        def before(module: Any, args: Any, kwargs: Any, name: str = name, norm: bool = norm) -> None:
            recorder.enter(name, module, (args, kwargs), norm)

        def after(_: nn.Module, args: Any, output: Any, name: str = name, norm: bool = norm) -> None:
            recorder.leave(name, output, norm)

        handles += [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]
    try:
        example = cloned(example_input)
        devices = list({parameter.device for parameter in model.parameters() if parameter.is_cuda})
        with torch.random.fork_rng(devices), torch.no_grad(), recorder, all_kept(model):
            watching = recorder.owners.watching_attributes(), recorder.watching_unchanged(), recorder.watching_memory()
            with ExitStack() as stack:
                for each in (*watching, recorder.handlers.watching()):
                    stack.enter_context(each)
                output = call(evaluate, example)
            recorder.finish(output)
        recorder.trace.read |= recorder.owners.touched
        recorder.trace.asked |= recorder.owners.asked
        recorder.trace.handled = recorder.handlers.handled
    finally:
        for handle in handles:
            handle.remove()
    return recorder.trace
