"""Traces without data, by torch.fx: of a whole network, or of its largest parts that trace."""

from __future__ import annotations

import inspect
import warnings

from torch import fx, nn

from acnet_pl.nn.surgery.trace import LAYERS, OPERATION, OUTSIDE, Trace

__all__ = ["asks_metadata", "trace_graph", "trace_symbolically"]

_METADATA = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"}
_METADATA_METHODS = {"size", "dim", "ndimension", "numel", "is_floating_point"}


class _LayerTracer(fx.Tracer):
    """Traces down to layers; takes ``opaque`` modules, which do not trace, as they are."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque
        self.proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) or m in self.opaque or super().is_leaf_module(m, module_qualified_name)


def trace_graph(module: nn.Module, opaque: set[nn.Module] | None = None) -> fx.Graph:
    """The fx graph of a module down to its layers, with the optional arguments of its forward at their defaults.

    Raises:
        Exception: Whatever a forward raises that asks a symbol for its value.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _LayerTracer(opaque or set()).trace(module, concrete_args=defaults)


def trace_symbolically(model: nn.Module) -> tuple[Trace, str]:
    """A trace of the whole model, or of its largest parts that trace and the reason why the whole does not."""
    names = {module: name for name, module in model.named_modules()}
    opaque: set[nn.Module] = set()
    trace = Trace()
    if isinstance(model, LAYERS):
        trace.calls[""] += 1
        return trace, ""
    graphs, obstacle = _cover(model, names, opaque)
    for part, graph in graphs.items():
        _read_graph(graph, part, names, opaque, trace)
    return trace, obstacle


def _cover(
    module: nn.Module, names: dict[nn.Module, str], opaque: set[nn.Module]
) -> tuple[dict[nn.Module, fx.Graph], str]:
    """Graphs that together hold as much of a module as traces; what does not trace is added to ``opaque``."""

    def attempt() -> str:
        if type(module).forward is nn.Module.forward:
            return "no forward"  # a ModuleList or the like: what holds it calls its children
        try:
            parts[module] = trace_graph(module, opaque)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"`{names[module] or type(module).__name__}`: {reason}"
        return ""

    parts: dict[nn.Module, fx.Graph] = {}
    obstacle = attempt()
    if not obstacle:
        return parts, ""
    inside: dict[nn.Module, fx.Graph] = {}
    obstacles = []
    for child in module.children():
        if child in opaque or isinstance(child, LAYERS):
            continue
        graphs, reason = _cover(child, names, opaque)
        if reason:
            obstacles.append(reason)
            parts.update(graphs)
        else:
            inside.update(graphs)
    if not obstacles and obstacle == "no forward":
        return inside, ""
    if not obstacles:
        obstacles = [obstacle]
    elif not attempt():  # around its opaque children it may trace
        return parts, obstacles[0]
    opaque.add(module)
    return {**parts, **inside}, obstacles[0]


def _read_graph(
    graph: fx.Graph, root: nn.Module, names: dict[nn.Module, str], opaque: set[nn.Module], trace: Trace
) -> None:
    """Add what a graph shows to a trace."""
    maker: dict[fx.Node, str] = {}
    for node in graph.nodes:
        inputs = node.all_input_nodes
        maker[node] = consumer = OPERATION
        if node.op == "get_attr":
            owner = root.get_submodule(str(node.target).rpartition(".")[0])
            if isinstance(owner, LAYERS):
                trace.read.add(names[owner])
        elif node.op in ("placeholder", "output"):
            maker[node] = consumer = OUTSIDE
        elif node.op == "call_module":
            module = root.get_submodule(str(node.target))
            if type(module) is nn.Identity:
                maker[node] = maker[inputs[0]]
                if node.users:
                    continue  # what takes its output takes its input
            elif isinstance(module, LAYERS):
                maker[node] = consumer = names[module]
                trace.calls[consumer] += 1
            elif module in opaque:
                maker[node] = consumer = OUTSIDE
        elif asks_metadata(node):
            continue
        for value in inputs:
            trace.edge(maker[value], consumer)


def asks_metadata(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape, type or the like, but not for its values."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in _METADATA
    return node.op == "call_method" and node.target in _METADATA_METHODS
