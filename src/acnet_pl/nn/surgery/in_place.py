"""Find out from an fx graph which values an operation changes in place."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from acnet_pl.nn.surgery.proxies import IN_PLACE
from acnet_pl.nn.surgery.reading import CONCATENATIONS, asks_metadata
from acnet_pl.nn.surgery.trace import is_layer

__all__ = ["Memory"]

_NEW: tuple[Any, ...] = (*CONCATENATIONS, operator.add, operator.sub, operator.mul, operator.truediv, "clone", "add")
"""Operations whose result never shares memory with their arguments."""

_LIBRARIES = {"torch", "_operator", "builtins", "math"}


class Memory:
    """Tensors in the same memory: the same tensor under two nodes of a graph, views of it, and perhaps views of it.

    Args:
        nodes: The nodes of the graph, in order.
    """

    def __init__(self, nodes: list[fx.Node]) -> None:
        self.position = {node: index for index, node in enumerate(nodes)}
        self.last_use = {node: max((self.position[user] for user in node.users), default=-1) for node in nodes}
        self.same: dict[fx.Node, fx.Node] = {}  # the first node with the same tensor
        self.homes: dict[fx.Node, set[fx.Node]] = {}  # the nodes that made the memory in which a node's tensor may be

    def follow(self, node: fx.Node, module: nn.Module | None) -> Iterator[fx.Node]:
        """Add a node; iterate over the earlier values, still in use, that share memory with what it changes in place.

        The node changes the tensors of those for which `is_same` is true; the others may be views.
        """
        changed = [one for one in _changed(node, module) if one in self.homes]
        inputs = node.all_input_nodes
        if module is not None and isinstance(module, (nn.Identity, _DropoutNd)) and inputs:
            self.same[node] = self.same[inputs[0]]
        elif changed:
            self.same[node] = self.same[changed[0]]
        elif node.target in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d) and inputs:
            self.same[node] = self.same[inputs[0]]
        else:
            self.same[node] = node
        shared = [] if _makes_new(node, module) and not changed else inputs
        self.homes[node] = {home for one in shared for home in self.homes[one]} or {node}
        touched = {home for one in changed for home in self.homes[one]}
        for other in self.homes if touched else ():
            if other is not node and self.homes[other] & touched and self.last_use[other] > self.position[node]:
                yield other

    def is_same(self, one: fx.Node, other: fx.Node) -> bool:
        """Return True if two nodes stand for one tensor."""
        return self.same[one] is self.same[other]

    def is_unused(self, node: fx.Node) -> bool:
        """Return True if nothing takes the tensor of a node, under any name."""
        same = [other for other in self.same if self.is_same(node, other)]
        return all(self.last_use[other] <= self.position[node] for other in same)


def _makes_new(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return is_layer(module)
    return node.op in ("placeholder", "get_attr") or asks_metadata(node) or node.target in _NEW


def _changed(node: fx.Node, module: nn.Module | None) -> list[fx.Node]:
    """Return the values that a node changes in place, or may change."""
    inputs = node.all_input_nodes
    if module is not None:
        known = is_layer(module) or type(module).__module__.startswith("torch.nn.")
        return inputs if getattr(module, "inplace", False) or not known else []
    if node.op not in ("call_function", "call_method") or not inputs:
        return []
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    home = "torch" if isinstance(target, str) else getattr(target, "__module__", None) or "torch"
    if home.partition(".")[0] not in _LIBRARIES:
        return inputs
    if target in IN_PLACE or target is operator.setitem or (name.endswith("_") and not name.endswith("__")):
        return inputs[:1]
    out = node.kwargs.get("out")
    return [out] if isinstance(out, fx.Node) else inputs[:1] if _asks_in_place(node) else []


def _asks_in_place(node: fx.Node) -> bool:
    if "inplace" in node.kwargs or isinstance(node.target, str):
        return bool(node.kwargs.get("inplace"))
    if (signature := _with_in_place(node.target)) is None:
        return False
    try:
        return bool(signature.bind(*node.args, **node.kwargs).arguments.get("inplace"))
    except TypeError:  # such a call is an error
        return False


@lru_cache(maxsize=1024)
def _with_in_place(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of a function that has the argument ``inplace``; built-in functions have none."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature if "inplace" in signature.parameters else None
