"""Trace a model by torch.fx or, where that is not possible, the networks in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx, nn

from acnet_pl.nn.surgery.reading import read_graph
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import Trace, is_layer
from acnet_pl.nn.surgery.tracing import LayerTracer, other_paths, trace_with
from acnet_pl.nn.surgery.wrappers import is_container, own_call, wrapped

__all__ = ["SymbolicTraces", "graphs_of"]

_Traced = tuple[fx.Graph, LayerTracer]


def graphs_of(model: nn.Module, whole: set[nn.Module]) -> tuple[dict[str, fx.Graph], str]:
    """Return the graph of a model, or of the networks in it, by name, and the reason if one does not trace."""
    names = {module: name for name, module in model.named_modules()}
    if model in whole:
        return {}, ""
    traced, obstacle = _trace_networks(model, names, whole, Owners(model), watched=False)
    return {names[network]: graph for network, (graph, _) in traced.items()}, obstacle


class SymbolicTraces:
    """Traces of a model or, if it has no forward, of the networks in it.

    Attributes:
        trace: The trace of what could be traced, as it is.
        obstacle: The reason why a network does not trace, or "" if all do.
    """

    def __init__(self, model: nn.Module) -> None:
        self.trace = Trace()
        self.obstacle = ""
        self._names = {module: name for name, module in model.named_modules()}
        self._opaque: set[nn.Module] = set()
        self._networks: dict[nn.Module, _Traced] = {}
        self._owners = Owners(model)
        if is_layer(model):
            self.trace.calls[""] += 1
            return
        self._networks, self.obstacle = _trace_networks(model, self._names, self._opaque, self._owners)
        for network, (graph, tracer) in self._networks.items():
            read_graph(graph, network, self._names, self._opaque, self.trace, self._owners)
            self.trace.visited |= {self._names[module] for module in (network, *tracer.visited)}
            self.trace.handled.update(tracer.handlers.handled)
        self.trace.read |= self._owners.touched
        self.trace.asked |= self._owners.asked

    def otherwise(self, kinds: Collection[type[nn.Module]]) -> Iterator[Trace]:
        """Iterate over traces of other paths that the code of these classes may take, if they can be traced."""
        for network, (_, tracer) in self._networks.items():
            for decision, graph, other in other_paths(network, self._opaque, tracer, kinds):
                trace = Trace(decision)
                read_graph(graph, network, self._names, other.opaque, trace, self._owners)
                # a module may be made on the spot
                trace.visited |= {self._names[module] for module in other.visited if module in self._names}
                trace.read |= self._owners.touched
                trace.asked |= self._owners.asked
                yield trace


def _trace_networks(
    module: nn.Module, names: dict[nn.Module, str], opaque: set[nn.Module], owners: Owners, *, watched: bool = True
) -> tuple[dict[nn.Module, _Traced], str]:
    """Trace a module or, if it has no forward, the networks in it; append those that do not trace to ``opaque``.

    A module that does not trace is not traced in parts either, since its code may do anything with what is in them,
    except an nn.Sequential, which calls its modules and nothing else, and a wrapper that hands its arguments on.
    """

    def attempt() -> str:
        try:
            if why := own_call(module):
                raise TypeError(why)
            tracer = LayerTracer(opaque, owners, watched=watched)
            traced[module] = trace_with(module, tracer), tracer
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"`{names[module] or type(module).__name__}`: {reason}"
        return ""

    traced: dict[nn.Module, _Traced] = {}
    container = is_container(module)
    obstacle = "" if container else attempt()
    if not container and not obstacle:
        return traced, ""
    if (part := wrapped(module)) is not None and not is_layer(part):
        return _trace_networks(part, names, opaque, owners, watched=watched)
    inside: dict[nn.Module, _Traced] = {}
    sequential = type(module).forward is nn.Sequential.forward and not own_call(module)
    for child in module.children() if container or sequential else ():
        if child not in opaque and not is_layer(child):
            networks, reason = _trace_networks(child, names, opaque, owners, watched=watched)
            (traced if reason else inside).update(networks)
            obstacle = reason or obstacle
    if sequential and not attempt():  # around its opaque modules
        return traced, obstacle
    if not container:
        opaque.add(module)
    return {**traced, **inside}, obstacle
