"""Recognise operations that leave a constant per channel a constant per channel."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.reading import CONCATENATIONS, averages

__all__ = [
    "adds",
    "averages_maps",
    "concatenates",
    "drops_out",
    "flattens",
    "keeps_channels",
    "pads_with_zeros",
    "passes",
]

_PASSING: tuple[Any, ...] = (
    *(nn.Identity, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, "contiguous", "clone"),
)
_CHANNELWISE: tuple[Any, ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Sigmoid, nn.Tanh),
    *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.gelu, F.silu, torch.relu, torch.relu_, "relu", "relu_"),
)
_ADDITION: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_FLATTENING: tuple[Any, ...] = (nn.Flatten, torch.flatten, "flatten")
_DROPOUTS: tuple[Any, ...] = (_DropoutNd, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def passes(node: fx.Node, module: nn.Module | None) -> bool:
    """Return True if the output has the same constant per channel as the only input."""
    if isinstance(module, nn.AvgPool2d):
        return averages(module)
    if node.target is F.avg_pool2d:
        return len(node.args) <= 3 and not node.kwargs.keys() - {"kernel_size", "stride"}
    return _matches(node, module, _PASSING)


def drops_out(node: fx.Node, module: nn.Module | None) -> float | None:
    """Return the probability of a dropout that is switched off at this call, None for anything else."""
    if not _matches(node, module, _DROPOUTS):
        return None
    options = _arguments(node, "p", "training")
    on = options.get("training", True) if module is None else node.meta["settings"]["training"]
    rate = getattr(module, "p", options.get("p", 0.5))
    return None if on is not False else rate if isinstance(rate, (int, float)) else 1.0


def adds(node: fx.Node, module: nn.Module | None) -> list[fx.Node] | None:
    """Return the values that are added, perhaps together with a constant; None if the node is no addition."""
    if module is not None or node.kwargs or len(node.args) != 2 or not _matches(node, None, _ADDITION):
        return None
    return [value for value in node.args if isinstance(value, fx.Node)]  # a value may be added to itself


def concatenates(node: fx.Node) -> tuple[list[fx.Node], bool] | None:
    """Return the values that are concatenated, and whether along the channels; None if it is no concatenation."""
    if not _matches(node, None, CONCATENATIONS) or node.kwargs.keys() - {"dim"} or not node.args:
        return None
    parts = node.args[0]
    if not isinstance(parts, (list, tuple)):
        return None
    nodes = [part for part in parts if isinstance(part, fx.Node)]
    return (nodes, _arguments(node, "dim").get("dim", 0) in (1, -3)) if len(nodes) == len(parts) else None


def flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Return True if the node flattens all dimensions except the batch's."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) in ((1, -1), (1, 3))
    options = _arguments(node, "start_dim", "end_dim")
    return _matches(node, module, _FLATTENING) and options in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1})


def averages_maps(node: fx.Node) -> bool | None:
    """Return whether the node keeps dimensions, if it is the mean over height and width; None if it is not."""
    if not _matches(node, None, ("mean", torch.mean)):
        return None
    options = _arguments(node, "dim", "keepdim")
    dims, kept = options.pop("dim", None), options.pop("keepdim", False)
    known = isinstance(dims, (list, tuple)) and set(dims) in ({2, 3}, {-1, -2}) and not options
    return kept if known and isinstance(kept, bool) else None


def keeps_channels(node: fx.Node | None, module: nn.Module | None) -> bool:
    """Return True for activations, which leave the channels separate."""
    return _matches(node, module, (*_CHANNELWISE, _DropoutNd))


def pads_with_zeros(conv: FusibleConv | nn.Conv2d, kernel: Tensor) -> bool:
    """Return True if a convolution with this kernel surrounds its input with zeros."""
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    if conv.padding == "same":
        return max(kernel.shape[2:]) > 1
    return any(conv.padding)


def _arguments(node: fx.Node, *names: str) -> dict[str, Any]:
    """Return the arguments of an operation after its first, by name."""
    return {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}


def _matches(node: fx.Node | None, module: nn.Module | None, what: tuple[Any, ...]) -> bool:
    if module is not None:
        return isinstance(module, tuple(kind for kind in what if isinstance(kind, type)))
    return node is not None and node.op in ("call_function", "call_method") and node.target in what
