"""Read an fx graph into a trace: which layer takes the output of which, and through which operations."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.surgery.touching import Owners
from acnet_pl.nn.surgery.trace import OUTSIDE, Trace, is_layer, operation

__all__ = ["CONCATENATIONS", "asks_metadata", "averages", "read_graph"]

CONCATENATIONS: tuple[Any, ...] = (torch.cat, torch.concat, torch.concatenate)

_METADATA = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"}
_METADATA_METHODS = {"size", "dim", "ndimension", "numel", "is_floating_point"}
_PURE = {
    *("view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "chunk", "split", "unbind", "cat"),
    *("contiguous", "softmax", "sigmoid", "mean", "mul", "add", "sub", "matmul", "interpolate"),
}
"""Names of PyTorch's operations and methods that change nothing in place."""


def asks_metadata(node: fx.Node) -> bool:
    """Return True if a node reads a tensor's shape, type or similar, but not its values."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in _METADATA
    return node.op == "call_method" and node.target in _METADATA_METHODS


def averages(module: nn.Module) -> bool:
    """Return True for average pooling in which every window is a true mean, which leaves constants unchanged."""
    return (
        type(module) is nn.AvgPool2d
        and (not module.count_include_pad or module.padding in (0, (0, 0)))
        and module.divisor_override is None
        and not _customised(module)
    )


def read_graph(
    graph: fx.Graph,
    root: nn.Module,
    names: dict[nn.Module, str],
    opaque: set[nn.Module],
    trace: Trace,
    owners: Owners,
) -> None:
    """Add the contents of a graph of the module ``root`` to a trace; ``opaque`` modules were not traced into."""
    maker: dict[fx.Node, tuple[str, ...]] = {}
    normed: dict[fx.Node, fx.Node] = {}  # for a value, the call of the batch norm that it comes from
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    for node in nodes:
        inputs = node.all_input_nodes
        consumer, module = _name(node), None
        if node.op == "get_attr":
            home, _, attribute = str(node.target).rpartition(".")
            value = getattr(root.get_submodule(home), attribute, None)
            owners.ask(value)
            if not all(asks_metadata(user) for user in node.users):
                owners.use(value)
        elif node.op in ("placeholder", "output"):
            consumer = OUTSIDE
        elif node.op == "call_module":
            module = root.get_submodule(str(node.target))
            consumer = operation(type(module).__name__)
            if is_layer(module):
                consumer = names[module]
                trace.calls[consumer] += 1
                for value in inputs:
                    if value in normed and not _harmless(nodes[position[normed[value]] + 1 : position[node]], root):
                        trace.changed.update(maker[value])
            elif module in opaque:
                consumer = OUTSIDE
        elif asks_metadata(node):
            maker[node] = (consumer,)
            continue
        maker[node] = (consumer,)
        if isinstance(module, _BatchNorm):
            normed[node] = node
        if node.users and (passing := _passed_on(node, module, normed)):
            maker[node] = tuple(producer for value in passing for producer in maker[value])
            if len(passing) == 1 and passing[0] in normed:
                normed[node] = normed[passing[0]]
            # A consumer of its output counts as a consumer of its input.
            if module is not None:
                _note_passed(trace, maker[node], names[module])
        else:
            for value in inputs:
                trace.edge(maker[value], consumer, norm=isinstance(module, _BatchNorm))
        for passing_module in node.meta.get("passed_by", ()):
            _note_passed(trace, maker[node], names[passing_module])


def _note_passed(trace: Trace, made_by: Iterable[str], module: str) -> None:
    for producer in made_by:
        trace.passed[producer].add(module)


def _passed_on(node: fx.Node, module: nn.Module | None, normed: Iterable[fx.Node]) -> list[fx.Node]:
    """Return the values that a node passes on unchanged, concatenated along the channels if several, or []."""
    if module is not None:
        value = node.all_input_nodes[:1]
        through = type(module) is nn.Identity and not _customised(module)
        return value if through or (averages(module) and value and value[0] in normed) else []
    if node.op != "call_function" or node.target not in CONCATENATIONS or not node.args:
        return []
    parts = node.args[0]
    options = {**dict(zip(("dim",), node.args[1:], strict=False)), **node.kwargs}
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, fx.Node) for part in parts):
        return []
    along_channels = options in ({"dim": 1}, {"axis": 1})
    return [part for part in parts if isinstance(part, fx.Node)] if along_channels and len(parts) > 1 else []


def _harmless(nodes: Iterable[fx.Node], root: nn.Module) -> bool:
    """Return True if none of the nodes can change a tensor in place."""
    return all(_changes_nothing(node, root) for node in nodes)


def _changes_nothing(node: fx.Node, root: nn.Module) -> bool:
    if node.op in ("placeholder", "get_attr") or asks_metadata(node):
        return True
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        plain = type(module).__module__.startswith("torch.nn.") and not getattr(module, "inplace", False)
        return (is_layer(module) or plain) and not _customised(module)
    if node.op == "call_method":
        return node.target in _PURE
    if node.target is operator.getitem:
        return True
    # Python's operators may be in place or not: torch.fx records `x += y` as `x + y`.
    home = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
    return home == "torch" and getattr(node.target, "__name__", "") in _PURE and "out" not in node.kwargs


def _customised(module: nn.Module) -> bool:
    """Return True if a module may compute something other than its class does."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return operation(target if isinstance(target, str) else getattr(target, "__name__", str(target)))
