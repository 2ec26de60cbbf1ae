"""Which batch norm follows which convolution? Registration order lies; the flow of tensors tells.

`follow` combines what torch.fx sees without data (`tracing`) with what an example input shows (`running`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.running import trace_by_running
from acnet_pl.nn.surgery.trace import OUTSIDE, Layer, Trace, layers
from acnet_pl.nn.surgery.tracing import trace_symbolically

__all__ = ["Dataflow", "follow"]


@dataclass(frozen=True)
class Dataflow:
    """What is known about a network's data flow, by layer name.

    Attributes:
        norm_of: From a convolution (or fusible block) to the batch norm that takes all its outputs and nothing else.
        norm_missing: From any other one that is called to the reason why it has no such batch norm.
        called: Layers seen at work.
        read: Layers whose tensors are read other than by calling them, as in ``F.conv2d(x, conv.weight)``.
        unknown: Convolutions that may have a batch norm which was not seen, for the reason in ``obstacle``.
        obstacle: What could not be traced and why, or "".
    """

    norm_of: Mapping[str, str]
    norm_missing: Mapping[str, str]
    called: frozenset[str]
    read: frozenset[str]
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
    traces, obstacle = [], ""
    for mode in (True, False):
        trace, failure = trace_symbolically(probe.train(mode))
        traces.append(trace)
        obstacle = obstacle or failure
    if example_input is not None:
        run = trace_by_running(probe, example_input)
        traces, obstacle = (run if obstacle else traces + run), ""

    found = dict(layers(model))
    norm_of: dict[str, str] = {}
    norm_missing: dict[str, str] = {}
    called = frozenset(name for trace in traces for name in trace.calls)
    read = frozenset(name for trace in traces for name in trace.read)
    for name, layer in found.items():
        if name in called and not isinstance(layer, _BatchNorm):
            norm_name, reason = _norm_after(name, found, traces, read)
            if reason:
                norm_missing[name] = reason
            else:
                norm_of[name] = norm_name
    unknown = _unknown(found, traces, norm_of) if obstacle else ()
    return Dataflow(norm_of, norm_missing, called, read, unknown, obstacle)


def _norm_after(
    name: str, found: Mapping[str, Layer], traces: Iterable[Trace], read: frozenset[str]
) -> tuple[str, str]:
    """The batch norm after a layer, and why it is not the layer's own or "" where it is."""
    traces = [trace for trace in traces if trace.calls]
    consumers = {consumer for trace in traces for consumer in trace.consumers[name]}
    norms = sorted(consumer for consumer in consumers if isinstance(found.get(consumer), _BatchNorm))
    if not norms:
        return "", "no batch norm follows"
    norm_name = norms[0]
    conv, norm = found[name], found[norm_name]
    if name in read or norm_name in read:
        reason = "or the convolution is read other than by calling it"
    elif consumers != {norm_name} or any(t.consumers[name][norm_name] != t.calls[name] for t in traces):
        reason = "is not all that the convolution's output goes to"
    elif any(set(trace.producers[norm_name]) - {name} for trace in traces):
        reason = "normalises something else too"
    elif conv._forward_hooks or conv._backward_hooks or norm._forward_pre_hooks or norm._backward_pre_hooks:
        reason = "is parted from the convolution by a hook on the value between them"
    elif getattr(norm, "num_features", None) != getattr(conv, "out_channels", None):
        reason = "has another number of channels"
    else:
        return norm_name, ""
    return norm_name, f"batch norm `{norm_name}` {reason}"


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
