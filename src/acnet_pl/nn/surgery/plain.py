"""Recognise plain convolutions and plain batch norms, which surgery may replace."""

from __future__ import annotations

import sys
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypeIs

from acnet_pl.nn.fusible import is_batch_norm
from acnet_pl.nn.replaced import why_replaced
from acnet_pl.nn.surgery.copying import inherit_hooks

_TENSORS = {"affine": ("weight", "bias"), "track_running_stats": ("running_mean", "running_var", "num_batches_tracked")}
"""The tensors that a batch norm has, for each of its options."""

__all__ = [
    "OfRank",
    "activation_of",
    "activations",
    "carries_activation",
    "is_plain_conv",
    "is_plain_norm",
    "why_norm_not_plain",
    "why_not_batch_norm",
    "why_not_plain",
]


def is_plain_conv(module: nn.Module) -> TypeIs[nn.Conv2d]:
    """Return True if a module computes what nn.Conv2d computes, from its own parameters."""
    return isinstance(module, nn.Conv2d) and not why_not_plain(module)


def why_not_plain(conv: nn.Conv2d) -> str:
    """Return the reason why a Conv2d is more than a convolution with its own parameters, or "" if it is not."""
    kind = type(conv)
    if why := why_replaced(conv):
        return why
    if any(getattr(kind, name) is not getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward")):
        return f"{kind.__name__} has a forward of its own"
    if kind.__call__ is not nn.Module.__call__:
        return f"{kind.__name__} has a __call__ of its own"
    if kind.__getattr__ is not nn.Module.__getattr__:
        return f"{kind.__name__} has a __getattr__ of its own"
    if conv._parameters.get("weight") is None or hasattr(kind, "weight"):
        return "its weight is computed (parametrisation, pruning, weight or spectral norm)"
    if not conv.weight.is_floating_point():
        return f"its weight is {str(conv.weight.dtype).removeprefix('torch.')}"
    if "bias" not in conv._parameters:
        return "its bias is computed (parametrisation, pruning)"
    for name in ("kernel_size", "stride", "padding", "dilation"):
        value = getattr(conv, name)
        if not (isinstance(value, tuple) and len(value) == 2) and not (name == "padding" and isinstance(value, str)):
            return f"its attribute {name} was set to {value!r}, where nn.Conv2d has a pair"
    shape = (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)
    if conv.weight.shape != shape:
        return f"its weight has the shape {tuple(conv.weight.shape)}, but its attributes say {shape}"
    if conv.padding_mode != "zeros" and list(conv._reversed_padding_repeated_twice) != _padding_of(conv):
        return f"its attributes say padding {conv.padding!r} and dilation {conv.dilation}, but it pads as it was built"
    return ""


def _padding_of(conv: nn.Conv2d) -> list[int]:
    """Return the sizes that `torch.nn.functional.pad` takes, as nn.Conv2d computes them when it is built."""
    if conv.padding == "same":
        totals = [steps * (size - 1) for steps, size in zip(conv.dilation, conv.kernel_size, strict=True)]
    else:
        totals = [0, 0] if isinstance(conv.padding, str) else [2 * size for size in conv.padding]
    return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]


def is_plain_norm(module: nn.Module) -> TypeIs[_BatchNorm]:
    """Return True for a plain batch norm (synchronised or not), or timm's with an activation, which can be kept."""
    return isinstance(module, _BatchNorm) and not why_norm_not_plain(module)


def why_norm_not_plain(norm: _BatchNorm) -> str:
    """Return the reason why a module is not a plain 2-D batch norm, or "" if it is.

    What the module computes counts, not the name of its class: Lightning, for example, uses a class of its own.
    """
    if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm3d)):
        return f"{type(norm).__name__} does not normalise the outputs of a 2-D convolution"
    if type(norm).train is not nn.Module.train:
        return f"{type(norm).__name__} has a train of its own, which the batch norms of a block would not have"
    if why := why_not_batch_norm(norm):
        return why
    for option, tensors in _TENSORS.items():
        if any((getattr(norm, name) is not None) != getattr(norm, option) for name in tensors):
            return f"{option} is {getattr(norm, option)}, which does not match its tensors ({', '.join(tensors)})"
    return ""


def why_not_batch_norm(norm: _BatchNorm) -> str:
    """Return the reason why a module does not compute batch norm from its own parameters, or "" if it does."""
    if why := why_replaced(norm):
        return why
    usual: bool = carries_activation(norm) or is_batch_norm(norm)
    if not usual:
        return f"{type(norm).__name__} has a forward of its own"
    if type(norm).__call__ is not nn.Module.__call__:
        return f"{type(norm).__name__} has a __call__ of its own"
    if type(norm).__getattr__ is not nn.Module.__getattr__:
        return f"{type(norm).__name__} has a __getattr__ of its own"
    for name in ("weight", "bias", "running_mean", "running_var"):
        if name not in norm._parameters.keys() | norm._buffers.keys():
            return f"its {name} is computed (parametrisation, pruning)"
    return "its weight is missing" if norm.affine and norm.weight is None else ""


class OfRank(nn.Identity):
    """Return the input unchanged, after checking that it has the number of dimensions that fusing assumed.

    A batch norm always normalises the second dimension. The layer that it was fused into would treat a different
    dimension as channels if the input had more or fewer dimensions.

    Args:
        rank: The number of dimensions.
        norm: The batch norm's name, for the error.
    """

    def __init__(self, rank: int, norm: str) -> None:
        super().__init__()
        self.rank = rank
        self.message = (
            f"`{norm}`: its input must have {rank} dimensions: a neighbouring layer does the work of this batch norm, "
            "and would take another dimension for the channels; give the network such inputs, or evaluate the original"
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        torch._assert(input.dim() == self.rank, self.message)
        return input

    def extra_repr(self) -> str:  # noqa: D102
        return f"rank={self.rank}"


def activation_of(norm: _BatchNorm, rank: int | None, name: str) -> nn.Module:
    """Return the replacement of a fused batch norm: its activation, or an nn.Identity, with its hooks.

    The activation keeps its name, so its parameters keep theirs. Unless ``rank`` is None, `OfRank` checks it, and its
    error gives the batch norm's ``name``.
    """
    rest: nn.Module = nn.Identity() if rank is None else OfRank(rank, name)
    if kept := activations(norm):
        rest = nn.Sequential(OrderedDict([*([] if rank is None else [("rank", rest)]), *kept]))
    rest.train(norm.training)
    inherit_hooks(rest, norm)
    return rest


def activations(norm: _BatchNorm) -> list[tuple[str, nn.Module]]:
    """List the modules that timm's batch norm applies after normalising, with their names."""
    children = norm.named_children() if carries_activation(norm) else ()
    return [(name, child) for name, child in children if not isinstance(child, nn.Identity)]


def carries_activation(norm: nn.Module) -> bool:
    """Return True for timm's batch norm with ``drop`` and ``act`` after it; timm is not imported for this."""
    timm_layers = sys.modules.get("timm.layers")
    if timm_layers is None:
        return False
    kinds = (timm_layers.BatchNormAct2d, timm_layers.SyncBatchNormAct)
    return isinstance(norm, kinds) and type(norm).forward in [kind.forward for kind in kinds]
