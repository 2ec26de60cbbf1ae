"""Trace a module without data by torch.fx, as it is and on the other paths that its code may take."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from itertools import takewhile
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from acnet_pl.nn.surgery.alive import still_alive
from acnet_pl.nn.surgery.copying import leaves_inside, own_forward
from acnet_pl.nn.surgery.decisions import Variation, deciding_kinds, other_values, variations
from acnet_pl.nn.surgery.effects import no_effects
from acnet_pl.nn.surgery.errors import decides_on, may_go_on
from acnet_pl.nn.surgery.functions import strings_in
from acnet_pl.nn.surgery.handled import Handled
from acnet_pl.nn.surgery.handlers import Handlers
from acnet_pl.nn.surgery.proxies import InPlaceProxy
from acnet_pl.nn.surgery.reading import CONCATENATIONS, averages
from acnet_pl.nn.surgery.surroundings import all_kept, settings_of
from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import is_layer

__all__ = ["LayerTracer", "other_graphs", "other_paths", "trace_graph", "trace_with"]

_SYMBOL: Any = object()  # stands for an argument of any value


class LayerTracer(fx.Tracer):
    """Traces down to layers, without tracing into ``opaque`` modules.

    ``variation`` is another path for the modules of one class. If ``watched``, ``handlers`` collects the functions that
    handle outputs, which takes as long again. ``open`` collects modules across whose boundary a batch norm and a layer
    before or after it may be connected, and modules that an argument may control. ``broken`` collects the graph as it
    was whenever such a path ended in an error: with other values it may go on.
    """

    def __init__(
        self, opaque: set[nn.Module], owners: Owners, variation: Variation | None = None, *, watched: bool = False
    ) -> None:
        super().__init__()
        self.watched = watched
        self.opaque = opaque
        self.owners = owners
        self.proxy_buffer_attributes = True
        self.variation = variation
        self.open: set[nn.Module] = set()
        self.called: set[nn.Module] = set()  # except leaves
        self.visited: set[nn.Module] = set()
        self.broken: list[fx.Graph] = []
        self.handlers = Handlers(self._layers_of, owners.names)
        self._made: dict[fx.Node, str] = {}
        self._inputs: list[tuple[nn.Module, set[fx.Node]]] = []
        self._convolved: set[fx.Node] = set()  # outputs of layers other than batch norms
        self._normed: set[fx.Node] = set()  # outputs of batch norms
        self._symbols: list[tuple[fx.Node, weakref.ref[fx.Proxy]]] = []  # every symbol
        self._origins: dict[fx.Node, set[fx.Node]] = {}  # of outputs of an nn.Identity, pooling or concatenation

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a new symbol."""
        proxy = InPlaceProxy(node, self)
        self._symbols.append((node, weakref.ref(proxy)))
        return proxy

    def note_kept(self, since: int = 0, output: Any = None) -> None:
        """Add to the graph that something keeps the symbols made since then that are alive outside the output."""
        made = [one for one in self._symbols[since:] if not since or one[0].op != "get_attr"]  # fx keeps those for now
        for node, _ in still_alive(made, list(leaves_inside(output))):
            if node in self.graph.nodes:
                self.graph.call_function(_keep, (node,))

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Return what is to be traced, watched from its beginning to its end, and its arguments."""
        forward, args = super().create_args_for_root(root_fn, is_module, concrete_args)

        def watched(*given: Any) -> Any:
            with self.handlers.watching():
                return forward(*given)

        return watched if self.watched else forward, args

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return True for a layer, an opaque module, or what torch.fx does not trace into either."""
        return is_layer(m) or m in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of a module, by the path that it takes here."""
        inputs = self._nodes((args, kwargs))
        self.visited.add(m)
        if self.is_leaf_module(m, ""):
            out = super().call_module(m, forward, args, kwargs)
            out.node.meta["settings"] = settings_of(m)
            if is_layer(m):
                self._made[out.node] = self.owners.call(m)
                self.handlers.note_call(self._made[out.node])
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
        if any(value is not None and not isinstance(value, fx.Proxy) for value in _leaves((args, kwargs))):
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
        """Add an operation to the graph."""
        node = super().create_node(kind, target, args, kwargs, *rest, **more)
        if target in CONCATENATIONS:
            self._origins[node] = self._origins_of(node.all_input_nodes)
        return node

    def _call(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.variation is None or type(m) is not self.variation.kind:
            return super().call_module(m, forward, args, kwargs)
        stack, depth, last = self.module_stack.copy(), len(self._inputs), next(iter(reversed(self.graph.nodes)))
        made = len(self._symbols)
        with all_kept(m):
            try:
                with self.variation.taken_by(m):
                    out = super().call_module(m, forward, args, kwargs)
                self.note_kept(made, out)
                return out
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
        if may_go_on(error, tried=self.variation is not None and bool(self.variation.attribute)):
            graph = fx.Graph()
            graph.graph_copy(self.graph, {})
            self.broken.append(graph)

    def _nodes(self, values: Any) -> set[fx.Node]:
        return self._origins_of(value.node for value in _leaves(values) if isinstance(value, fx.Proxy))

    def _layers_of(self, value: Any) -> Iterator[str]:
        if isinstance(value, fx.Proxy):
            yield from (self._made[node] for node in self._origins_of([value.node]) if node in self._made)

    def _origins_of(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        return {origin for node in nodes for origin in self._origins.get(node, {node})}


def _leaves(values: Any) -> Iterator[Any]:
    """Iterate over values as `tree_leaves` does, which takes many times as long for a few in a tuple or dict."""
    if type(values) in (tuple, list, dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _leaves(value)
    elif isinstance(values, fx.Proxy):
        yield values
    else:
        yield from tree_leaves(values)


def _own_nodes(values: Any) -> set[fx.Node]:
    return {value.node for value in _leaves(values) if isinstance(value, fx.Proxy)}


def trace_graph(module: nn.Module, owners: Owners) -> tuple[fx.Graph, set[nn.Module], Handled]:
    """Return the fx graph of a module down to its layers, the modules that it calls, and functions that handle outputs.

    The optional arguments of its forward are at their defaults. A node that modules passed on unchanged, without an
    operation, has these in ``meta["passed_by"]``. ``owners`` records what else the forward does with layers.

    Raises:
        Exception: Any error of a forward that needs the value of a symbol.
    """
    tracer = LayerTracer(set(), owners, watched=True)
    graph = trace_with(module, tracer)
    return graph, {module, *tracer.visited}, tracer.handlers.handled


def trace_with(module: nn.Module, tracer: LayerTracer, **arguments: Any) -> fx.Graph:
    """Return the graph that a tracer makes of a module, with other values than the defaults for some arguments."""
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    concrete = {name: value for name, value in {**defaults, **arguments}.items() if value is not _SYMBOL}
    variation = tracer.variation
    path = variation.taken_by(module) if variation and type(module) is variation.kind else nullcontext()
    with warnings.catch_warnings(), all_kept(module), own_forward(module), path, tracer.owners.watching():
        warnings.simplefilter("ignore")
        graph = tracer.trace(module, concrete_args=concrete)
        tracer.note_kept()
        for node in graph.nodes:
            if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
                node.meta["constant"] = getattr(module, str(node.target), None)  # the module does not keep it
    return graph


def _keep(value: Any) -> None:
    """Represent, in a graph, a module that keeps a value in an attribute."""


def other_graphs(module: nn.Module, owners: Owners, handled: Handled) -> Iterator[tuple[str, fx.Graph]]:
    """Iterate over the other paths of a module in its mode, which `trace_graph` traces: decision and graph of each.

    Code that takes other paths in ways that `unforeseen` tells of is not followed there. ``handled`` is what
    `trace_graph` returned.
    """
    base = LayerTracer(set(), owners)
    base.handlers.handled = handled
    for decision, graph, _ in other_paths(module, set(), base, deciding_kinds(module), fixed={"training"}):
        yield decision, graph


def other_paths(
    part: nn.Module,
    opaque: set[nn.Module],
    base: LayerTracer,
    kinds: Collection[type[nn.Module]],
    fixed: Collection[str] = (),
) -> Iterator[tuple[str, fx.Graph, LayerTracer]]:
    """Iterate over graphs of the other paths of a part, without tracing into modules that these do not concern."""
    for parameter in inspect.signature(part.forward).parameters.values():
        if parameter.default is not parameter.empty:
            for value in [*other_values(parameter.default, strings_in(part)), _SYMBOL]:
                tracer = LayerTracer(opaque, base.owners)
                for graph in _graphs(part, tracer, **{parameter.name: value}):
                    yield f"it depends on the argument `{parameter.name}`", graph, tracer
    examples = {type(m): m for m in part.modules() if m not in opaque and type(m) in kinds}
    inside = {m: {type(inner) for inner in m.modules()} for m in base.called}
    for kind, example in examples.items():
        closed = base.called - base.open - {m for m, inner in inside.items() if kind in inner}
        for variation in variations(example, part, fixed, base.handlers.handled.may_have_entered):
            tracer = LayerTracer(opaque | closed, base.owners, variation)
            for graph in _graphs(part, tracer):
                yield variation.what, graph, tracer


def _graphs(part: nn.Module, tracer: LayerTracer, **arguments: Any) -> Iterator[fx.Graph]:
    """Iterate over the graph of another path of a part, and graphs of what it does up to an error."""
    try:
        with no_effects():
            graph = trace_with(part, tracer, **arguments)
        yield graph
    except Exception as error:
        if not decides_on(error, {name for name, value in arguments.items() if value is _SYMBOL}):
            tracer.note_broken(error)
    yield from tracer.broken
