"""Trace a network without data by torch.fx."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from itertools import takewhile
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from acnet_pl.nn.surgery.copying import kept_values, own_forward
from acnet_pl.nn.surgery.decisions import Variation, deciding_kinds, other_values, variations
from acnet_pl.nn.surgery.errors import decides_on, may_go_on
from acnet_pl.nn.surgery.functions import strings_in
from acnet_pl.nn.surgery.proxies import InPlaceProxy
from acnet_pl.nn.surgery.reading import CONCATENATIONS, averages, read_graph
from acnet_pl.nn.surgery.surroundings import all_kept, settings_of
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import Trace, is_layer
from acnet_pl.nn.surgery.wrappers import is_container, own_call, wrapped

__all__ = ["SymbolicTraces", "graphs_of", "other_graphs", "trace_graph"]

_SYMBOL: Any = object()  # stands for an argument of any value


class _LayerTracer(fx.Tracer):
    """Traces down to layers, without tracing into ``opaque`` modules.

    ``variation`` is another path for the modules of one class. ``open`` collects modules across whose boundary a batch
    norm and a layer before or after it may be connected, and modules that an argument may control. ``broken`` collects
    the graph as it was whenever such a path ended in an error: with other values it may go on.
    """

    def __init__(self, opaque: set[nn.Module], owners: Owners, variation: Variation | None = None) -> None:
        super().__init__()
        self.opaque = opaque
        self.owners = owners
        self.proxy_buffer_attributes = True
        self.variation = variation
        self.open: set[nn.Module] = set()
        self.called: set[nn.Module] = set()  # except leaves
        self.visited: set[nn.Module] = set()
        self.broken: list[fx.Graph] = []
        self._inputs: list[tuple[nn.Module, set[fx.Node]]] = []
        self._convolved: set[fx.Node] = set()  # outputs of layers other than batch norms
        self._normed: set[fx.Node] = set()  # outputs of batch norms
        self._origins: dict[fx.Node, set[fx.Node]] = {}  # of outputs of an nn.Identity, pooling or concatenation

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m) or m in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inputs = self._nodes((args, kwargs))
        self.visited.add(m)
        if self.is_leaf_module(m, ""):
            out = super().call_module(m, forward, args, kwargs)
            out.node.meta["settings"] = settings_of(m)
            if is_layer(m):
                self.owners.call(m)
            if type(m) is nn.Identity or averages(m):
                self._origins |= dict.fromkeys(self._nodes(out), inputs)
            elif is_layer(m):
                norm = isinstance(m, _BatchNorm)
                asked = inputs if norm else inputs & self._normed
                for module, given in reversed(self._inputs):
                    if not asked & given:
                        break
                    self.open.add(module)
                if norm:
                    self._normed |= self._nodes(out)
                else:
                    self._convolved |= self._nodes(out)
            return out
        self.called.add(m)
        if any(value is not None and not isinstance(value, fx.Proxy) for value in tree_leaves((args, kwargs))):
            self.open.add(m)
        self._inputs.append((m, inputs))
        out = self._call(m, forward, args, kwargs)
        self._inputs.pop()
        for node in _own_nodes(out) & _own_nodes((args, kwargs)):
            node.meta.setdefault("passed_by", []).append(m)
        if self._nodes(out) & (self._convolved | self._normed):
            self.open.add(m)
        return out

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if target in CONCATENATIONS:
            self._origins[node] = self._origins_of(node.all_input_nodes)
        return node

    def _call(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.variation is None or type(m) is not self.variation.kind:
            return super().call_module(m, forward, args, kwargs)
        stack, depth, last = self.module_stack.copy(), len(self._inputs), next(iter(reversed(self.graph.nodes)))
        with all_kept(m):
            try:
                with self.variation.taken_by(m):
                    return super().call_module(m, forward, args, kwargs)
            except Exception as error:  # a path that this module cannot take now
                self.note_broken(error)
                del self._inputs[depth:]
                self.module_stack = stack
                for node in takewhile(lambda node: node is not last, list(reversed(self.graph.nodes))):
                    if node.op != "get_attr":  # fx reuses such a node for later reads
                        self.graph.erase_node(node)
        return super().call_module(m, forward, args, kwargs)

    def note_broken(self, error: Exception) -> None:
        """Keep a copy of the graph, unless the code never goes on from there."""
        if may_go_on(error, other_keys=self.variation is not None):
            graph = fx.Graph()
            graph.graph_copy(self.graph, {})
            self.broken.append(graph)

    def _nodes(self, values: Any) -> set[fx.Node]:
        return self._origins_of(value.node for value in tree_leaves(values) if isinstance(value, fx.Proxy))

    def _origins_of(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        return {origin for node in nodes for origin in self._origins.get(node, {node})}


def _own_nodes(values: Any) -> set[fx.Node]:
    return {value.node for value in tree_leaves(values) if isinstance(value, fx.Proxy)}


_Traced = tuple[fx.Graph, _LayerTracer]


def trace_graph(module: nn.Module, owners: Owners) -> tuple[fx.Graph, set[nn.Module]]:
    """Return the fx graph of a module down to its layers, and the modules that it calls.

    The optional arguments of its forward are at their defaults. A node that modules passed on unchanged, without an
    operation, has these in ``meta["passed_by"]``. ``owners`` records what else the forward does with layers.

    Raises:
        Exception: Any error of a forward that needs the value of a symbol.
    """
    tracer = _LayerTracer(set(), owners)
    graph = _trace(module, tracer)
    return graph, {module, *tracer.visited}


def _trace(module: nn.Module, tracer: _LayerTracer, **arguments: Any) -> fx.Graph:
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    concrete = {name: value for name, value in {**defaults, **arguments}.items() if value is not _SYMBOL}
    variation = tracer.variation
    path = variation.taken_by(module) if variation and type(module) is variation.kind else nullcontext()
    with warnings.catch_warnings(), all_kept(module), own_forward(module), path, tracer.owners.watching():
        warnings.simplefilter("ignore")
        graph = tracer.trace(module, concrete_args=concrete)
        for value in kept_values(module):
            if isinstance(value, fx.Proxy):
                graph.call_function(_keep, (value.node,))
        for node in graph.nodes:
            if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
                node.meta["constant"] = getattr(module, str(node.target), None)  # the module does not keep it
    return graph


def _keep(value: Any) -> None:
    """Represent, in a graph, a module that keeps a value in an attribute."""


def graphs_of(model: nn.Module, whole: set[nn.Module]) -> tuple[dict[str, fx.Graph], str]:
    """Return the graph of a model, or of the networks in it, by name, and the reason if one does not trace."""
    names = {module: name for name, module in model.named_modules()}
    if model in whole:
        return {}, ""
    traced, obstacle = _trace_networks(model, names, whole, Owners(model))
    return {names[network]: graph for network, (graph, _) in traced.items()}, obstacle


def other_graphs(module: nn.Module, owners: Owners) -> Iterator[tuple[str, fx.Graph]]:
    """Iterate over the other paths of a module in its mode that `trace_graph` traces: decision and graph of each.

    Code that takes other paths in ways that `unforeseen` tells of is not followed there.
    """
    base = _LayerTracer(set(), owners)
    for decision, graph, _ in _other_paths(module, set(), base, deciding_kinds(module), fixed={"training"}):
        yield decision, graph


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
        self.trace.read |= self._owners.touched
        self.trace.asked |= self._owners.asked

    def otherwise(self, kinds: Collection[type[nn.Module]]) -> Iterator[Trace]:
        """Iterate over traces of other paths that the code of these classes may take, if they can be traced."""
        for network, (_, tracer) in self._networks.items():
            for decision, graph, other in _other_paths(network, self._opaque, tracer, kinds):
                trace = Trace(decision)
                read_graph(graph, network, self._names, other.opaque, trace, self._owners)
                trace.visited |= {self._names[module] for module in other.visited}
                trace.read |= self._owners.touched
                trace.asked |= self._owners.asked
                yield trace


def _other_paths(
    part: nn.Module,
    opaque: set[nn.Module],
    base: _LayerTracer,
    kinds: Collection[type[nn.Module]],
    fixed: Collection[str] = (),
) -> Iterator[tuple[str, fx.Graph, _LayerTracer]]:
    """Iterate over graphs of the other paths of a part, without tracing into modules that these do not concern."""
    for parameter in inspect.signature(part.forward).parameters.values():
        if parameter.default is not parameter.empty:
            for value in [*other_values(parameter.default, strings_in(part)), _SYMBOL]:
                tracer = _LayerTracer(opaque, base.owners)
                for graph in _graphs(part, tracer, **{parameter.name: value}):
                    yield f"it depends on the argument `{parameter.name}`", graph, tracer
    examples = {type(m): m for m in part.modules() if m not in opaque and type(m) in kinds}
    inside = {m: {type(inner) for inner in m.modules()} for m in base.called}
    for kind, example in examples.items():
        closed = base.called - base.open - {m for m, inner in inside.items() if kind in inner}
        for variation in variations(example, part, fixed):
            tracer = _LayerTracer(opaque | closed, base.owners, variation)
            for graph in _graphs(part, tracer):
                yield variation.what, graph, tracer


def _graphs(part: nn.Module, tracer: _LayerTracer, **arguments: Any) -> Iterator[fx.Graph]:
    """Iterate over the graph of another path of a part, and graphs of what it does up to an error."""
    try:
        yield _trace(part, tracer, **arguments)
    except Exception as error:
        if not decides_on(error, {name for name, value in arguments.items() if value is _SYMBOL}):
            tracer.note_broken(error)
    yield from tracer.broken


def _trace_networks(
    module: nn.Module, names: dict[nn.Module, str], opaque: set[nn.Module], owners: Owners
) -> tuple[dict[nn.Module, _Traced], str]:
    """Trace a module or, if it has no forward, the networks in it; append those that do not trace to ``opaque``.

    A module that does not trace is not traced in parts either, since its code may do anything with what is in them,
    except an nn.Sequential, which calls its modules and nothing else, and a wrapper that hands its arguments on.
    """

    def attempt() -> str:
        try:
            if why := own_call(module):
                raise TypeError(why)
            tracer = _LayerTracer(opaque, owners)
            traced[module] = _trace(module, tracer), tracer
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
        return _trace_networks(part, names, opaque, owners)
    inside: dict[nn.Module, _Traced] = {}
    sequential = type(module).forward is nn.Sequential.forward and not own_call(module)
    for child in module.children() if container or sequential else ():
        if child not in opaque and not is_layer(child):
            networks, reason = _trace_networks(child, names, opaque, owners)
            (traced if reason else inside).update(networks)
            obstacle = reason or obstacle
    if sequential and not attempt():  # around its opaque modules
        return traced, obstacle
    if not container:
        opaque.add(module)
    return {**traced, **inside}, obstacle
