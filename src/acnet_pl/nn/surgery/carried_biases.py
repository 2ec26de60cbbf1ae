"""Move biases that the stock model has no place for into later layers, mostly running means of batch norms.

A fused block has a bias. If the stock convolution has neither a bias nor a batch norm of its own, its output lacks a
constant per channel, the shift. After additions, concatenations, pooling and unpadded convolutions a shift is still a
shift per channel. A batch norm takes it up in its running mean, a convolution or linear layer in its bias. After
anything else the result would not be proven exact, which is an error.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.plain import is_plain_conv, is_plain_norm
from acnet_pl.nn.surgery.reading import CONCATENATIONS, asks_metadata, averages
from acnet_pl.nn.surgery.rivals import Rivals
from acnet_pl.nn.surgery.ties import ties
from acnet_pl.nn.surgery.tracing import other_graphs, trace_graph

__all__ = ["carry_biases"]

# Operations that pass a shift on unchanged, and operations that keep channels separate but pass no shift.
_PASSING: tuple[Any, ...] = (
    *(nn.Identity, _DropoutNd, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, "contiguous", "clone"),
)
_CHANNELWISE: tuple[Any, ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh),
    *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu, torch.relu, torch.relu_, "relu", "relu_"),
)
_ADDITION: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_FLATTENING: tuple[Any, ...] = (nn.Flatten, torch.flatten, "flatten")


@dataclass(frozen=True)
class _Value:
    """Channels of a value, its offset ``(C,)`` from the stock model's value, and the layers that cause the offset."""

    channels: int | None = None
    shift: Tensor | None = None
    sources: frozenset[str] = frozenset()


def carry_biases(model: nn.Module, loose: Mapping[str, Tensor], roomy: Collection[str]) -> dict[str, Tensor]:
    """Find later layers that can take up biases for which the stock model has no place.

    Args:
        model: The ACNet.
        loose: The biases ``(O,)`` of the blocks for whose bias there is no place, in float64, by name.
        roomy: The blocks for whose bias there is a place.

    Returns:
        Corrections by layer name, float64 ``(C,)``: what to subtract from a batch norm's running mean, or to add to
        another layer's bias.

    Raises:
        FusionError: The data flow does not prove that later layers can take up the biases.
    """
    probe = light_copy(model).eval()
    try:
        graph, visited = trace_graph(probe)
    except Exception as error:
        raise _refusal(loose, f"torch.fx does not trace the model: {error}") from error
    with torch.no_grad():
        shifts = _Shifts(probe, loose, roomy)
        shifts.run(graph)
        for decision, other in other_graphs(probe):
            try:
                shifts.run(other)
            except FusionError as error:
                raise FusionError(f"{error} (this happens at some calls: {decision})") from error
    shifts.refuse_choices({shifts.names[module] for module in visited})
    return {name: shift for name, (shift, _) in shifts.taken_up.items() if shift is not None}


def _refusal(names: Collection[str], why: str) -> FusionError:
    return FusionError(
        f"{', '.join(f'`{name}`' for name in sorted(names))}: the stock model has no place for the bias of the fused "
        f"block: its convolution has neither a bias nor a batch norm of its own, and later layers cannot take it up: "
        f"{why}. Use fuse_model(acnet) instead, whose convolutions have a bias"
    )


class _Shifts:
    """Follows shifts through graphs and collects the layers that take them up."""

    def __init__(self, model: nn.Module, loose: Mapping[str, Tensor], roomy: Collection[str]) -> None:
        self.model = model
        self.loose = loose
        self.roomy = roomy
        self.names = {module: name for name, module in model.named_modules()}
        self.tied = ties(model)
        self.values: dict[fx.Node, _Value] = {}
        self.taken_up: dict[str, tuple[Tensor | None, frozenset[str]]] = {}
        self.involved: dict[str, frozenset[str]] = {}  # layers through which shifts go, with the shifts' sources

    def run(self, graph: fx.Graph) -> None:
        """Follow the shifts through a graph; raise an error if it contradicts an earlier graph."""
        self.values = {}
        for node in graph.nodes:
            self.values[node] = value = self.evaluate(node)
            module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
            if value.sources:
                self.involved |= {self.names[passing]: value.sources for passing in node.meta.get("passed_by", ())}
            involved = [one for one in (value, *map(self.values.get, node.all_input_nodes)) if one and one.sources]
            if module is None or not involved:
                continue
            sources = frozenset[str]().union(*(one.sources for one in involved))
            self.involved[self.names[module]] = sources
            if module._forward_hooks or module._forward_pre_hooks:
                raise _refusal(sources, f"`{node.target}` has a hook, whose effect on it is unknown")

    def evaluate(self, node: fx.Node) -> _Value:
        inputs = [self.values[value] for value in node.all_input_nodes]
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (FusibleConv, _ConvNd)):
            return self.convolution(module, inputs[0])
        if isinstance(module, _BatchNorm):
            return self.batch_norm(module, inputs[0])
        if isinstance(module, nn.Linear):
            return self.linear(module, inputs[0])
        if self.matches(node, module, _ADDITION) and not node.kwargs:
            operands = [value for value in node.args if isinstance(value, fx.Node)]  # a value may be added to itself
            return self.addition([self.values[value] for value in operands])
        if self.matches(node, module, CONCATENATIONS) and node.args and isinstance(node.args[0], (list, tuple)):
            return self.concatenation(node)
        if self.passes(node, module):
            return inputs[0]
        if self.flattens(node, module) or self.averages(node):
            return _Value(None, inputs[0].shift, inputs[0].sources)
        if not asks_metadata(node):
            for value in inputs:
                if value.shift is not None:
                    what = "the output" if node.op == "output" else f"`{node.name if module is None else node.target}`"
                    raise _refusal(value.sources, f"it would change what {what} gives")
        return _Value(inputs[0].channels if self.matches(node, module, _CHANNELWISE) else None)

    @staticmethod
    def matches(node: fx.Node, module: nn.Module | None, what: tuple[Any, ...]) -> bool:
        if module is not None:
            return isinstance(module, tuple(kind for kind in what if isinstance(kind, type)))
        return node.op in ("call_function", "call_method") and node.target in what

    def passes(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Return True if the output has the same shift per channel as the only input."""
        if isinstance(module, nn.AvgPool2d):
            return averages(module)
        if node.target is F.avg_pool2d:
            return len(node.args) <= 3 and not node.kwargs.keys() - {"kernel_size", "stride"}
        if node.target is F.dropout:
            return node.kwargs.get("training") is False
        return self.matches(node, module, _PASSING)

    def flattens(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Return True if the node flattens all dimensions except the batch's."""
        if isinstance(module, nn.Flatten):
            return (module.start_dim, module.end_dim) in ((1, -1), (1, 3))
        dims = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
        return self.matches(node, module, _FLATTENING) and dims in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1})

    def averages(self, node: fx.Node) -> bool:
        """Return True if the node is the mean over height and width."""
        if node.target not in ("mean", torch.mean) or self.values[node.all_input_nodes[0]].channels is None:
            return False
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, (list, tuple)) and set(dims) in ({2, 3}, {-1, -2})

    def convolution(self, conv: FusibleConv | _ConvNd, x: _Value) -> _Value:
        name = self.names[conv]
        shift, sources = None, x.sources
        if x.shift is not None:
            padded = conv.padding_mode == "zeros" and conv.padding != "valid" and any(p != 0 for p in conv.padding)
            if padded or not (isinstance(conv, FusibleConv) or is_plain_conv(conv)):
                raise _refusal(
                    x.sources, f"`{name}` pads its input with zeros" if padded else f"`{name}` is in the way"
                )
            kernel = conv.fuse_kernel()[0] if isinstance(conv, FusibleConv) else exact(conv.weight)
            per_group = x.shift.reshape(conv.groups, 1, -1)
            shift = (kernel.sum((2, 3)).reshape(conv.groups, -1, kernel.shape[1]) * per_group).sum(2).flatten()
        if name in self.roomy or (isinstance(conv, _ConvNd) and conv.bias is not None):
            self.take_up(name, shift, sources)
            return _Value(conv.out_channels)
        if name in self.loose:
            shift = self.loose[name] if shift is None else shift + self.loose[name]
            sources = sources | {name}
        return _Value(conv.out_channels, shift, sources)

    def batch_norm(self, norm: _BatchNorm, x: _Value) -> _Value:
        if x.shift is not None and not is_plain_norm(norm):
            raise _refusal(x.sources, f"`{self.names[norm]}` is a {type(norm).__name__}")
        if norm.running_mean is not None:  # a batch norm without running statistics removes any shift itself
            self.take_up(self.names[norm], x.shift, x.sources)
        return _Value(norm.num_features)

    def linear(self, layer: nn.Linear, x: _Value) -> _Value:
        if x.shift is None:
            return _Value()
        if x.channels is not None or x.shift.numel() != layer.in_features:
            raise _refusal(x.sources, f"`{self.names[layer]}` takes more than one value per channel")
        shift = exact(layer.weight) @ x.shift
        if dict(layer.named_parameters()).get("bias") is None:
            return _Value(None, shift, x.sources)
        self.take_up(self.names[layer], shift, x.sources)
        return _Value()

    def addition(self, inputs: list[_Value]) -> _Value:
        sources = frozenset[str]().union(*(value.sources for value in inputs))
        shifts = [value.shift for value in inputs if value.shift is not None]
        channels = {value.channels for value in inputs if value.channels is not None}
        if shifts and len({shift.numel() for shift in shifts} | channels) != 1:
            raise _refusal(sources, "an addition broadcasts its channels")
        flat = {value.channels is None for value in inputs if value.shift is not None}
        if len(flat) > 1 or (shifts and len(shifts) < len(inputs) and (True in flat or shifts[0].numel() == 1)):
            raise _refusal(sources, "an addition may broadcast it")
        known = {value.channels for value in inputs}
        total = sum(shifts[1:], shifts[0]) if shifts else None
        return _Value(known.pop() if len(known) == 1 else max(channels, default=None), total, sources)

    def concatenation(self, node: fx.Node) -> _Value:
        parts = [self.values[part] for part in node.args[0]]  # type: ignore[union-attr, index]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        sources = frozenset[str]().union(*(part.sources for part in parts))
        known = [part.channels for part in parts if part.channels is not None]
        along_channels = dim in (1, -3) and len(known) == len(parts)
        if not sources:
            return _Value(sum(known) if along_channels else None)
        if not along_channels:
            raise _refusal(sources, "it is concatenated with a value of unknown size")
        device = next(part.shift.device for part in parts if part.shift is not None)
        shifts = [
            torch.zeros(count, dtype=torch.float64, device=device) if part.shift is None else part.shift
            for count, part in zip(known, parts, strict=True)
        ]
        return _Value(sum(known), torch.cat(shifts), sources)

    def refuse_choices(self, visited: set[str]) -> None:
        """Raise an error if another call may choose a different module to give, pass on or take up a bias."""
        rivals = Rivals(self.model, visited, visited)
        for one in sorted(self.involved):
            if other := rivals.instead_of(one):
                raise _refusal(self.involved[one], f"`{one}` is one of several: `{other}` is not called now")

    def take_up(self, name: str, shift: Tensor | None, sources: frozenset[str]) -> None:
        """Record what a layer takes up; raise an error if that differs from an earlier call."""
        tied = self.tied.get(self.model.get_submodule(name), {})
        if shift is not None and (why := tied.get("running_mean") or tied.get("bias")):
            raise _refusal(sources, f"`{name}` would have to take it up alone, but {why}")
        if name in self.taken_up:
            before, earlier = self.taken_up[name]
            same = before is shift if before is None or shift is None else torch.allclose(before, shift, rtol=1e-12)
            if not same:
                raise _refusal(
                    sources | earlier, f"`{name}` is called several times, and would have to take up different biases"
                )
        self.taken_up[name] = (shift, sources)
