"""Decide for each batch norm of a network: fuse it into the layers before it or after it, or leave it and say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.affine import rank_of, why_not_after, why_not_before
from acnet_pl.nn.surgery.dataflow import Dataflow
from acnet_pl.nn.surgery.plain import activations, why_not_batch_norm
from acnet_pl.nn.surgery.trace import Layer, listed

__all__ = ["Plan", "plan_fusing", "why_layer_stays", "why_norm_stays"]


@dataclass(frozen=True)
class Plan:
    """What to do with each batch norm, by its name.

    Attributes:
        after: Batch norms to fuse into the layers before them: these layers, in the order of the channels.
        before: Batch norms to fuse into the layers after them: these layers.
        ranks: For each of both, the number of dimensions that its input must have; None if it checks that itself.
        left: The reasons why the other batch norms stay.
    """

    after: Mapping[str, tuple[str, ...]]
    before: Mapping[str, tuple[str, ...]]
    ranks: Mapping[str, int | None]
    left: Mapping[str, str]


def plan_fusing(found: Mapping[str, Layer], flow: Dataflow) -> Plan:
    """Plan the fusing of each batch norm.

    Args:
        found: The network's layers, by name.
        flow: Their data flow.
    """
    follows = {**{norm: (layer,) for layer, norm in flow.norm_of.items()}, **flow.joined}
    after: dict[str, tuple[str, ...]] = {}
    before: dict[str, tuple[str, ...]] = {}
    ranks: dict[str, int | None] = {}
    left: dict[str, str] = {}
    for name, norm in found.items():
        if not isinstance(norm, _BatchNorm):
            continue
        neighbours = follows.get(name) or flow.read_by.get(name, ())
        why = why_norm_stays(norm) or _why_not_seen(name, flow) or _why_not(name, norm, neighbours, found, flow)
        if why:
            left[name] = why
            continue
        (after if name in follows else before)[name] = neighbours
        kind = next((kind for kind in (nn.BatchNorm2d, nn.BatchNorm3d) if isinstance(norm, kind)), None)
        checks = kind is not None and type(norm)._check_input_dim is kind._check_input_dim
        ranks[name] = None if checks else rank_of(found[neighbours[0]])
    return Plan(after, before, ranks, left)


def why_norm_stays(norm: _BatchNorm) -> str:
    """Return the reason why a batch norm is not a fixed scale and shift, or "" if it is."""
    if why := why_not_batch_norm(norm):
        return why
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics, and normalises by each batch's own statistics even in eval mode"
    return ""


def why_layer_stays(layer: nn.Module) -> str:
    """Return the reason why no batch norm can be fused into a layer, or "" if one can."""
    return why_not_after(layer)


_NOT_CALLED = "it is not called now (give an `example_input` whose arguments take its path)"


def _device(layer: Layer) -> str:
    return str(next((tensor.device for tensor in [*layer.parameters(), *layer.buffers()]), "cpu"))


def _why_not_seen(name: str, flow: Dataflow) -> str:
    if name in flow.called:
        return ""
    return f"its data flow cannot be traced ({flow.obstacle})" if flow.obstacle else _NOT_CALLED


def _why_not(
    name: str, norm: _BatchNorm, neighbours: tuple[str, ...], found: Mapping[str, Layer], flow: Dataflow
) -> str:
    if not neighbours:
        return f"{flow.not_after[name]}; {flow.not_before[name]}"
    precedes = name in flow.read_by
    start = f"{flow.not_after[name]}; " if precedes else ""
    if precedes and activations(norm):
        return f"{start}its activation lies before {listed(neighbours, 2)}"
    ranks = {rank_of(found[one]) for one in neighbours}
    own = 4 if isinstance(norm, nn.BatchNorm2d) else 5 if isinstance(norm, nn.BatchNorm3d) else None
    if len(ranks) > 1 or (own is not None and ranks != {own}):
        return f"{start}`{neighbours[0]}` treats another dimension as channels"
    for one in neighbours:
        layer = found[one]
        if (own_device := _device(norm)) != (its := _device(layer)):
            return f"{start}it is on the device {own_device}, `{one}` on {its}"
        if why := why_not_before(layer, norm.num_features) if precedes else why_not_after(layer):
            return f"{start}`{one}` {'after' if precedes else 'before'} it: {why}"
    return ""
