"""Find the layers before and after each batch norm from the flow of tensors, not from the order of registration.

`follow` combines traces without data by torch.fx (`tracing`) with evaluations of an example input (`running`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.alive import older_objects_set_aside
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.decisions import deciding_kinds, unforeseen
from acnet_pl.nn.surgery.functions import is_users
from acnet_pl.nn.surgery.handled import Explored, Handled
from acnet_pl.nn.surgery.hooks import Boundaries
from acnet_pl.nn.surgery.neighbours import Neighbours
from acnet_pl.nn.surgery.networks import SymbolicTraces
from acnet_pl.nn.surgery.rivals import Rivals
from acnet_pl.nn.surgery.running import trace_by_running
from acnet_pl.nn.surgery.running_otherwise import run_otherwise
from acnet_pl.nn.surgery.tensors import tensors_kept
from acnet_pl.nn.surgery.trace import OUTSIDE, Layer, Trace, channels_of, layers

__all__ = ["Dataflow", "follow"]


@dataclass(frozen=True)
class Dataflow:
    """Data flow of a network, by layer name. Batch norms do not count as layers here.

    Attributes:
        norm_of: The batch norm after each layer that takes all outputs of the layer and nothing else.
        norm_missing: For each other layer that is called, the reason why it has no such batch norm.
        joined: For each batch norm that takes exactly the concatenated outputs of several layers, these layers in the
            order of their channels. Their outputs go nowhere else.
        read_by: For each batch norm that is in neither of these, the layers that take all its outputs and nothing else.
        not_after: For each batch norm without layers in ``norm_of`` and ``joined``, the reason why.
        not_before: For each such batch norm that is not in ``read_by`` either, the reason why.
        called: Layers and batch norms that are called.
        read: Layers whose tensors are read other than by calling them, as in ``F.conv2d(x, conv.weight)``.
        asked: Layers whose tensors are referred to, as in ``x.to(conv.weight.dtype)``.
        undecided: Layers and batch norms that have such a neighbour now, but perhaps not at another call.
        unknown: Layers that may have a batch norm that could not be traced, for the reason in ``obstacle``.
        obstacle: What could not be traced and why, or "".
    """

    norm_of: Mapping[str, str]
    norm_missing: Mapping[str, str]
    joined: Mapping[str, tuple[str, ...]]
    read_by: Mapping[str, tuple[str, ...]]
    not_after: Mapping[str, str]
    not_before: Mapping[str, str]
    called: frozenset[str]
    read: frozenset[str]
    asked: frozenset[str]
    undecided: frozenset[str]
    unknown: tuple[str, ...]
    obstacle: str

    def pairs(self) -> list[tuple[str, str]]:
        """List the pairs of neighbouring layers, in the order of the data."""
        joined = [(part, norm) for norm, parts in self.joined.items() for part in parts]
        return [*self.norm_of.items(), *joined, *((norm, one) for norm, all_ in self.read_by.items() for one in all_)]


@older_objects_set_aside()
def follow(model: nn.Module, example_input: Any = None) -> Dataflow:
    """Follow the data through a network, in train and in eval mode.

    Args:
        model: Any module. It is not changed.
        example_input: Input for networks that torch.fx cannot trace: a tensor, a tuple of positional arguments or a
            dict of keyword arguments, on the model's device.

    Raises:
        ValueError: The network cannot be evaluated on ``example_input``.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU())
        >>> flow = follow(model)
        >>> flow.norm_of, flow.norm_missing
        ({'0': '1'}, {'2': 'no batch norm follows'})
    """
    with tensors_kept(model):
        return _follow(model, example_input)


def _follow(model: nn.Module, example_input: Any) -> Dataflow:
    probe = light_copy(model)
    symbolic = [SymbolicTraces(probe.train(mode)) for mode in (True, False)]
    obstacle = symbolic[0].obstacle or symbolic[1].obstacle
    traces = [] if obstacle and example_input is not None else [traced.trace for traced in symbolic]
    if example_input is not None:
        traces += trace_by_running(probe, example_input)
    found = dict(layers(model))
    flow = _read(model, found, traces, "" if example_input is not None else obstacle)
    pairs = flow.pairs()
    if not pairs:
        return flow
    handled = Handled()
    for trace in traces:
        handled.update(trace.handled)
    kinds = deciding_kinds(model, pairs) | _passing_kinds(model, handled, pairs)
    known = _unforeseen(model, pairs, kinds, handled)
    if not obstacle or example_input is None:
        probe.eval()
        traces += symbolic[1].otherwise(kinds)
        kinds = set()
    if example_input is not None:
        traces += run_otherwise(probe, example_input, kinds, handled)
    ever = frozenset(name for trace in traces for name in trace.visited)
    return _read(model, found, traces, flow.obstacle, ever, known)


def _passing_kinds(model: nn.Module, handled: Handled, pairs: list[tuple[str, str]]) -> set[type[nn.Module]]:
    """Return the classes, other than PyTorch's, of modules whose forward passes an output on between a pair."""
    passing = {code for first, _ in pairs for code in handled.taken[first] & handled.given[first]}
    kinds = {type(module) for module in model.modules()}
    return {kind for kind in kinds if is_users(kind) and getattr(kind.forward, "__code__", None) in passing}


def _unforeseen(
    model: nn.Module, pairs: list[tuple[str, str]], kinds: set[type[nn.Module]], handled: Handled
) -> dict[tuple[str, str], str]:
    """Return where code may take a path that parts a pair and cannot be traced."""
    examples = {type(module): module for module in model.modules() if type(module) in kinds}
    places = {kind: place for kind, example in examples.items() if (place := unforeseen(example))}
    explored = Explored(examples.values())
    found: dict[tuple[str, str], str] = {}
    for first, second in pairs:
        if why := handled.unknown_between(first, second, explored):
            found[first, second] = why
        elif places and (concerned := places.keys() & deciding_kinds(model, [(first, second)])):
            found[first, second] = min(places[kind] for kind in concerned)
    return found


def _read(
    model: nn.Module,
    found: Mapping[str, Layer],
    traces: list[Trace],
    obstacle: str,
    ever: frozenset[str] | None = None,
    unforeseen: Mapping[tuple[str, str], str] | None = None,
) -> Dataflow:
    """Combine traces; pairs come from the network as it is, and are dropped if another trace contradicts them."""
    certain = [trace for trace in traces if not trace.decision]
    called = frozenset(name for trace in certain for name in trace.calls)
    visited = frozenset(name for trace in certain for name in trace.visited)
    seen = Neighbours(found, traces, Rivals(model, visited, ever), Boundaries(model), unforeseen or {})
    norm_of: dict[str, str] = {}
    norm_missing: dict[str, str] = {}
    for name, layer in found.items():
        if name in called and not isinstance(layer, _BatchNorm):
            norm_name, reason = seen.norm_after(name)
            if reason:
                norm_missing[name] = reason
            else:
                norm_of[name] = norm_name
    joined: dict[str, tuple[str, ...]] = {}
    for norm in dict.fromkeys(norm_of.values()):
        parts = seen.parts(norm)
        if len(parts) > 1:
            why = {part: norm_missing[part] for part in parts if part in norm_missing}
            if not why:
                joined[norm] = parts
            joint = f"batch norm `{norm}` normalises the outputs of {len(parts)} layers, concatenated"
            for part in set(parts) - why.keys():
                del norm_of[part]
                norm_missing[part] = joint
    read_by, not_after, not_before = {}, {}, {}
    for norm in called - {*norm_of.values(), *joined}:
        if isinstance(found[norm], _BatchNorm):
            not_after[norm] = seen.why_not_after(norm, norm_missing)
            readers, reason = seen.readers(norm)
            if reason:
                not_before[norm] = reason
            else:
                read_by[norm] = readers
    return Dataflow(
        norm_of=norm_of,
        norm_missing=norm_missing,
        joined=joined,
        read_by=read_by,
        not_after=not_after,
        not_before=not_before,
        called=called,
        read=seen.read,
        asked=seen.asked,
        undecided=frozenset(seen.undecided),
        unknown=_unknown(found, certain, norm_of) if obstacle else (),
        obstacle=obstacle,
    )


def _unknown(found: Mapping[str, Layer], traces: list[Trace], norm_of: Mapping[str, str]) -> tuple[str, ...]:
    """List layers whose output leaves what was traced, if batch norms take their input from there."""
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
        and channels_of(layer) in fed
        and (all(name not in t.calls for t in traces) or any(OUTSIDE in t.consumers[name] for t in traces))
    )
