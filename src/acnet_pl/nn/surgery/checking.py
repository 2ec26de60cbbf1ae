"""Check that the code of a network behaves the same after some of its layers are replaced.

The code may check what its layers are (``isinstance``, an attribute of a batch norm, the number of parameters), which a
trace of the original does not show. So the network is traced before and after, and both traces must agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn

from acnet_pl.nn.dispatch_mode import DispatchMode
from acnet_pl.nn.surgery.alive import older_objects_set_aside
from acnet_pl.nn.surgery.copying import light_copy
from acnet_pl.nn.surgery.networks import graphs_of
from acnet_pl.nn.surgery.running import call, cloned
from acnet_pl.nn.surgery.surroundings import all_kept
from acnet_pl.nn.surgery.tensors import tensors_kept
from acnet_pl.nn.surgery.trace import layers

__all__ = ["changed_path"]

_Step = tuple[Any, ...]


@older_objects_set_aside()
def changed_path(
    before: nn.Module, after: nn.Module, replaced: Collection[str], example_input: Any = None, *, same: bool = True
) -> str:
    """Return the first difference in what a network's code does after some modules were replaced, "" if none.

    Args:
        before: A copy of the network before the replacement; it is put into eval mode.
        after: The network after it.
        replaced: Names of the modules that may differ.
        example_input: Input for evaluating networks that torch.fx cannot trace.
        same: Whether both networks compute the same. Otherwise evaluations only show whether the new one has an error.
    """
    with tensors_kept(before), tensors_kept(after):
        return _changed_path(before, after, replaced, example_input, same)


def _changed_path(
    before: nn.Module, after: nn.Module, replaced: Collection[str], example_input: Any, same: bool
) -> str:
    networks = before.eval(), light_copy(after).eval()
    whole = {*replaced, *dict(layers(before)), *dict(layers(after))}
    (old, trouble), (new, obstacle) = (_outlines(network, whole) for network in networks)
    if obstacle and not trouble:
        return obstacle
    found = next((text for part in old.keys() & new.keys() if (text := _first_difference(old[part], new[part]))), "")
    if found or not obstacle or example_input is None:
        return found
    try:
        steps = _Evaluation(networks[1], whole).steps_on(example_input)
    except Exception as error:
        _Evaluation(networks[0], whole).steps_on(example_input)  # an error of both is not caused by the replacement
        return f"{type(error).__name__}: {error}"
    return _first_difference(_Evaluation(networks[0], whole).steps_on(example_input), steps) if same else ""


def _outlines(model: nn.Module, whole: Collection[str]) -> tuple[dict[str, list[_Step]], str]:
    graphs, obstacle = graphs_of(model, {model.get_submodule(name) for name in whole if _has(model, name)})
    return {name: list(_steps(graph)) for name, graph in graphs.items()}, obstacle


def _has(model: nn.Module, name: str) -> bool:
    try:
        return model.get_submodule(name) is not None
    except AttributeError:
        return False


def _steps(graph: fx.Graph) -> Iterator[_Step]:
    """Iterate over the nodes of a graph, referring to nodes by position and to the code's constants by value."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        target: Any = node.target
        target = node.meta.get("constant", target)
        arguments = fx.node.map_arg((node.args, node.kwargs), position.__getitem__)
        yield node.op, target, arguments


class _Evaluation(DispatchMode):
    """Records the operations of an evaluation; a module that is not looked into is recorded by its name."""

    def __init__(self, model: nn.Module, whole: Collection[str]) -> None:
        super().__init__()
        self.model = model
        self.whole = whole
        self.depth = 0
        self.steps: list[_Step] = []

    def steps_on(self, example_input: Any) -> list[_Step]:
        for name in self.whole:
            if _has(self.model, name):
                module = self.model.get_submodule(name)
                module.register_forward_pre_hook(partial(self.enter, name))
                module.register_forward_hook(self.leave)
        example = cloned(example_input)
        devices = list({parameter.device for parameter in self.model.parameters() if parameter.is_cuda})
        with torch.random.fork_rng(devices), torch.no_grad(), all_kept(self.model), self:
            call(self.model, example)
        return self.steps

    def enter(self, name: str, *_: Any) -> None:
        if self.depth == 0:
            self.steps.append((name,))
        self.depth += 1

    def leave(self, *_: Any) -> None:
        self.depth -= 1

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.depth == 0 and isinstance(func, torch._ops.OpOverload):
            self.steps.append((func.overloadpacket.__name__,))
        return func(*args, **(kwargs or {}))


def _first_difference(before: list[_Step], after: list[_Step]) -> str:
    for old, new in zip_longest(before, after):
        if not _same(old, new):
            words = ("nothing" if one is None else _word(one) for one in (old, new))
            return "{} became {}".format(*words)
    return ""


def _word(step: _Step) -> str:
    target = step[1] if len(step) > 1 else step[0]
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    return f"`{name}`" + (f" of {step[2][0][1:]}" if len(step) > 2 and len(step[2][0]) > 1 else "")


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return old.shape == new.shape and (old.is_meta or torch.allclose(old.double(), new.double(), 1e-3, 1e-5))
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(value, new[key]) for key, value in old.items())
    if isinstance(old, float) and isinstance(new, float):
        return old == new or math.isclose(old, new, rel_tol=1e-3, abs_tol=1e-5)
    if type(old) is type(new) and isinstance(old, (str, int, bool, type(None), torch.dtype, torch.device)):
        return bool(old == new)
    return type(old) is type(new) and (not callable(old) or _name(old) == _name(new))


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", type(thing).__qualname__)
