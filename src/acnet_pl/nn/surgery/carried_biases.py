"""Move biases that the stock model has no place for into later layers, mostly running means of batch norms.

A fused block has a bias. If the stock convolution has neither a bias nor a batch norm of its own, its output lacks a
constant per channel, the shift. After additions, concatenations, pooling and unpadded convolutions a shift is still a
shift per channel. A batch norm takes it up in its running mean, a convolution or linear layer in its bias. After
anything else the result would not be proven exact, which is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx, nn

from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.alive import older_objects_set_aside
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.decisions import deciding_kinds, unforeseen
from acnet_pl.nn.surgery.following import Shifts
from acnet_pl.nn.surgery.handled import Explored, Handled
from acnet_pl.nn.surgery.hooks import Boundaries
from acnet_pl.nn.surgery.rivals import Rivals
from acnet_pl.nn.surgery.shifts import ImpossibleError, UnprovenError
from acnet_pl.nn.surgery.tensors import tensors_kept
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import is_layer, listed
from acnet_pl.nn.surgery.tracing import other_graphs, trace_graph
from acnet_pl.nn.surgery.wrappers import own_call, wrapped

__all__ = ["carry_biases"]


@older_objects_set_aside()
def carry_biases(model: nn.Module, loose: Mapping[str, Tensor], roomy: Collection[str]) -> dict[str, Tensor]:
    """Find later layers that can take up biases for which the stock model has no place.

    Warns if a bias passes a dropout, which is exact only while the dropout is off.

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
    with tensors_kept(model):
        probe = light_copy(model).eval()
        owners = Owners(probe)
        try:
            root, graph, visited, handled = _traced(probe, owners, loose)
            with torch.no_grad():
                shifts = Shifts(probe, root, loose, roomy, owners)
                try:
                    shifts.run(graph)
                except ImpossibleError as error:
                    raise UnprovenError(loose, f"{error}, which is not what it was built for") from error
                shifts.refuse_unused(graph)
                dropouts = dict(shifts.dropouts)  # of the path as it is
                for decision, other in other_graphs(root, owners, handled):
                    _follow_other(shifts, Shifts(probe, root, {}, (), owners), other, decision)
                shifts.refuse_unseen()
                examples = _of_each_kind(root)
                involved = list(shifts.involved)
                places = [*map(unforeseen, examples), handled.unknown_about(involved, involved, Explored(examples))]
                if place := next(filter(None, places), ""):
                    raise UnprovenError(loose, f"{place}, so that something else may happen at another call")
            _refuse_hooks(probe, shifts.involved)
            _refuse_choices(probe, shifts.involved, {shifts.names[module] for module in visited})
        except UnprovenError as error:
            raise FusionError(
                f"{', '.join(f'`{name}`' for name in sorted(error.sources))}: the stock model has no place for the "
                "bias of the fused block: its convolution has neither a bias nor a batch norm of its own, and later "
                f"layers cannot take it up: {error}. Use fuse_model(acnet) instead, whose convolutions have a bias"
            ) from error
    if dropouts:
        names = sorted(frozenset[str]().union(*dropouts.values()))
        warnings.warn(
            f"the bias of {listed(names)} passes the dropout {listed(sorted(dropouts))} before a later layer "
            "takes it up: the stock model computes the same in eval mode, but not with a dropout alone switched on "
            "(Monte Carlo dropout); use fuse_model(acnet) for that",
            stacklevel=6,
        )
    return {name: shift for name, (shift, _) in shifts.taken_up.items() if shift is not None}


def _traced(
    model: nn.Module, owners: Owners, loose: Collection[str]
) -> tuple[nn.Module, fx.Graph, set[nn.Module], Handled]:
    """Trace a network, or the network inside its wrappers; return what was traced, and what `trace_graph` gives."""
    root: nn.Module | None = model
    obstacle: Exception | None = None
    while root is not None and not is_layer(root):
        if why := own_call(root):
            raise UnprovenError(
                loose, f"torch.fx does not trace what {type(root).__name__} does besides its forward: {why}"
            )
        try:
            return root, *trace_graph(root, owners)
        except Exception as error:
            obstacle = obstacle or error
        root = wrapped(root)
    raise UnprovenError(loose, "no layer comes later" if root else f"torch.fx does not trace the model: {obstacle}")


def _of_each_kind(root: nn.Module) -> Collection[nn.Module]:
    """Return a module of each class whose code decides what happens to outputs of layers."""
    kinds = deciding_kinds(root)
    return {type(module): module for module in root.modules() if type(module) in kinds}.values()


def _follow_other(shifts: Shifts, blank: Shifts, graph: fx.Graph, decision: str) -> None:
    """Follow the shifts on another path of the network, unless no input can take it."""
    try:
        blank.run(graph)
    except ImpossibleError:
        return
    try:
        shifts.run(graph)
        if all(node.op != "output" for node in graph.nodes):  # it ends in an error, and may go on with other values
            shifts.refuse_unused(graph)
    except UnprovenError as error:
        raise UnprovenError(error.sources, f"{error} (this happens at some calls: {decision})") from error


def _refuse_hooks(model: nn.Module, involved: Mapping[str, frozenset[str]]) -> None:
    """Raise an error if a hook may see a shifted value at the boundary of a module that contains layers."""
    boundaries = Boundaries(model)
    for source in sorted(frozenset[str]().union(*involved.values())):
        if hooked := boundaries.hooked_around([name for name, sources in involved.items() if source in sources]):
            raise UnprovenError({source}, f"a hook of `{hooked}` may see or change the value between them")


def _refuse_choices(model: nn.Module, involved: Mapping[str, frozenset[str]], visited: set[str]) -> None:
    """Raise an error if another call may choose a different module to give, pass on or take up a bias."""
    rivals = Rivals(model, visited, visited)
    for one in sorted(involved):
        if other := rivals.instead_of(one):
            raise UnprovenError(involved[one], f"`{one}` is one of several: `{other}` is not called now")
