"""Which batch norm follows which convolution? Registration order lies; the flow of tensors tells.

`follow` combines what torch.fx sees without data (`tracing`) with what an example input shows (`running`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.decisions import deciding_kinds
from acnet_pl.nn.surgery.running import run_otherwise, trace_by_running
from acnet_pl.nn.surgery.trace import OUTSIDE, Layer, Trace, layers
from acnet_pl.nn.surgery.tracing import SymbolicTraces

__all__ = ["Dataflow", "follow"]


@dataclass(frozen=True)
class Dataflow:
    """What is known about a network's data flow, by layer name.

    Attributes:
        norm_of: From a convolution (or fusible block) to the batch norm that takes all its outputs and nothing else.
        norm_missing: From any other one that is called to the reason why it has no such batch norm.
        called: Layers seen at work.
        read: Layers whose tensors are read other than by calling them, as in ``F.conv2d(x, conv.weight)``.
        undecided: Those that have such a batch norm now, but perhaps not at another call, which may decide otherwise.
        unknown: Convolutions that may have a batch norm which was not seen, for the reason in ``obstacle``.
        obstacle: What could not be traced and why, or "".
    """

    norm_of: Mapping[str, str]
    norm_missing: Mapping[str, str]
    called: frozenset[str]
    read: frozenset[str]
    undecided: frozenset[str]
    unknown: tuple[str, ...]
    obstacle: str


def follow(model: nn.Module, example_input: Any = None) -> Dataflow:
    """Follow the data through a network, in train and in eval mode, and leave it as it is.

    Args:
        model: Any module.
        example_input: Also shows the flow where torch.fx cannot: a tensor, a tuple of positional arguments or a dict of
            keyword arguments, on the model's device.

    Raises:
        ValueError: The network cannot be evaluated on ``example_input``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU())
        >>> flow = follow(model)
        >>> flow.norm_of, flow.norm_missing
        ({'0': '1'}, {'2': 'no batch norm follows'})
    """
    probe = light_copy(model)
    symbolic = [SymbolicTraces(probe.train(mode)) for mode in (True, False)]
    obstacle = symbolic[0].obstacle or symbolic[1].obstacle
    traces = [] if obstacle and example_input is not None else [traced.trace for traced in symbolic]
    if example_input is not None:
        traces += trace_by_running(probe, example_input)
    found = dict(layers(model))
    flow = _read(found, traces, "" if example_input is not None else obstacle)
    if not flow.norm_of:
        return flow
    kinds = deciding_kinds(model, flow.norm_of)
    if not obstacle or example_input is None:
        probe.eval()
        traces += symbolic[1].otherwise(kinds)
        kinds = set()
    if example_input is not None:
        traces += run_otherwise(probe, example_input, kinds)
    flow = _read(found, traces, flow.obstacle)
    siblings = _idle_siblings(model, found, flow.called)
    chosen = {conv: norm for conv, norm in flow.norm_of.items() if norm in siblings}
    why = {
        conv: f"batch norm `{norm}` is one of several: `{siblings[norm]}` is not called now"
        for conv, norm in chosen.items()
    }
    return replace(
        flow,
        norm_of={conv: norm for conv, norm in flow.norm_of.items() if conv not in chosen},
        norm_missing={**flow.norm_missing, **why},
        undecided=flow.undecided | chosen.keys(),
    )


def _read(found: Mapping[str, Layer], traces: list[Trace], obstacle: str) -> Dataflow:
    """What some traces say; pairs are of the traces of the network as it is, but for those that others part."""
    certain = [trace for trace in traces if not trace.course]
    norm_of: dict[str, str] = {}
    norm_missing: dict[str, str] = {}
    undecided: set[str] = set()
    called = frozenset(name for trace in certain for name in trace.calls)
    read = frozenset(name for trace in traces for name in trace.read)
    for name, layer in found.items():
        if name in called and not isinstance(layer, _BatchNorm):
            norm_name, reason, course = _norm_after(name, found, traces, read)
            if reason:
                norm_missing[name] = f"{reason}: {course}" if course else reason
                undecided |= {name} if course else set()
            else:
                norm_of[name] = norm_name
    unknown = _unknown(found, certain, norm_of) if obstacle else ()
    return Dataflow(norm_of, norm_missing, called, read, frozenset(undecided), unknown, obstacle)


def _norm_after(
    name: str, found: Mapping[str, Layer], traces: Iterable[Trace], read: frozenset[str]
) -> tuple[str, str, str]:
    """The batch norm after a layer, why it is not the layer's own or "" where it is, and in which other course."""
    traces = sorted((trace for trace in traces if trace.calls), key=lambda trace: bool(trace.course))
    consumers = {consumer for trace in traces if not trace.course for consumer in trace.consumers[name]}
    norms = sorted(consumer for consumer in consumers if isinstance(found.get(consumer), _BatchNorm))
    if not norms:
        return "", "no batch norm follows", ""
    norm_name = norms[0]
    for trace in traces:
        if reason := _other_use(name, norm_name, found, trace):
            return norm_name, f"batch norm `{norm_name}` {reason}", trace.course
    if name in read or norm_name in read:
        return norm_name, f"batch norm `{norm_name}` or the convolution is read other than by calling it", ""
    return norm_name, "", ""


def _other_use(name: str, norm_name: str, found: Mapping[str, Layer], trace: Trace) -> str:
    """Why a batch norm is not a convolution's own by a trace, or "" where nothing in it is against that."""
    conv, norm = found[name], found[norm_name]
    if set(trace.consumers[name]) - {norm_name} or trace.consumers[name][norm_name] != trace.calls[name]:
        return "is not all that the convolution's output goes to"
    if set(trace.producers[norm_name]) - {name}:
        return "normalises something else too"
    if conv._forward_hooks or conv._backward_hooks or norm._forward_pre_hooks or norm._backward_pre_hooks:
        return "is parted from the convolution by a hook on the value between them"
    if getattr(norm, "num_features", None) != getattr(conv, "out_channels", None):
        return "has another number of channels"
    return ""


def _idle_siblings(model: nn.Module, found: Mapping[str, Layer], called: frozenset[str]) -> dict[str, str]:
    """From batch norms to another one, not called now, that a call may choose in their place by an index or key."""
    norms = {name: layer for name, layer in found.items() if isinstance(layer, _BatchNorm)}
    choices = {name for name, module in model.named_modules() if isinstance(module, (nn.ModuleList, nn.ModuleDict))}
    siblings: dict[str, str] = {}
    for idle in norms.keys() - called:
        for name in norms.keys() & called:
            parts = takewhile(lambda pair: pair[0] == pair[1], zip(name.split("."), idle.split("."), strict=False))
            shared = [part for part, _ in parts]
            if ".".join(shared) in choices and norms[name].num_features == norms[idle].num_features:
                siblings[name] = idle
    return siblings


def _unknown(found: Mapping[str, Layer], traces: list[Trace], norm_of: Mapping[str, str]) -> tuple[str, ...]:
    """Convolutions whose output goes where it was not seen, as far as there are batch norms fed from there."""
    fed = [
        layer.num_features
        for name, layer in found.items()
        if isinstance(layer, _BatchNorm)
        and name not in norm_of.values()
        and (all(name not in t.calls for t in traces) or any(OUTSIDE in t.producers[name] for t in traces))
    ]
    return tuple(
        name
        for name, layer in found.items()
        if not isinstance(layer, _BatchNorm)
        and name not in norm_of
        and layer.out_channels in fed
        and (all(name not in t.calls for t in traces) or any(OUTSIDE in t.consumers[name] for t in traces))
    )
