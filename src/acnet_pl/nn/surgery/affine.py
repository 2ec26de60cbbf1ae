"""Fuse a batch norm in eval mode, one scale and shift per channel, into the parameters of other layers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from acnet_pl.nn.fusible import exact
from acnet_pl.nn.fusion import FusionError, all_finite
from acnet_pl.nn.replaced import why_replaced
from acnet_pl.nn.surgery.hooks import reads_parameters
from acnet_pl.nn.surgery.trace import channels_of

__all__ = ["fuse_after", "fuse_before", "rank_of", "why_not_after", "why_not_before"]

_KINDS: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
)


def why_not_after(layer: nn.Module) -> str:
    """Return the reason why a batch norm after a layer cannot be fused into the layer, or "" if it can."""
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    if kind is None:
        return f"it is a {type(layer).__name__}"
    if why := why_replaced(layer):
        return why
    methods = ("forward", "_conv_forward", "__getattr__")
    own = any(getattr(type(layer), name, None) is not getattr(kind, name, None) for name in methods)
    if own and not _pads_as_tensorflow(layer):
        return f"{type(layer).__name__} has a forward of its own"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is computed (parametrisation, pruning, weight or spectral norm)"
    if "bias" not in layer._parameters:
        return "its bias is computed (parametrisation, pruning)"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if reads_parameters(layer):
        return "a hook reads or changes its parameters"
    return ""


def why_not_before(layer: nn.Module, channels: int) -> str:
    """Return the reason why a batch norm of ``channels`` cannot be fused into the layer after it, or "" if it can."""
    if isinstance(layer, _ConvTransposeNd):
        return "it is a transposed convolution, whose bias would differ at the borders"
    if why := why_not_after(layer):
        return why
    if isinstance(layer, _ConvNd):
        point = set(layer.kernel_size) == {1}
        padded = layer.padding != "valid" and any(size != 0 for size in layer.padding)
        if _pads_as_tensorflow(layer) or layer.padding == "same":
            padded = not point
        if padded and layer.padding_mode == "zeros":
            return "it pads its input with zeros, which the batch norm does not scale and shift"
    taken = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return "" if taken == channels else "it takes a different number of channels"


def rank_of(layer: nn.Module) -> int:
    """Return the number of input dimensions for which a layer treats the second dimension as channels."""
    return 2 + len(layer.kernel_size) if isinstance(layer, _ConvNd) else 2


def fuse_after(layers: Sequence[_ConvNd | nn.Linear], norm: _BatchNorm) -> None:
    """Fuse a batch norm in place into the layers before it, whose concatenated outputs it normalises (Eq. 2)."""
    scale, shift = _affine(norm)
    start = 0
    for layer in layers:
        channels = slice(start, start := start + channels_of(layer))
        own, offset = scale[channels], shift[channels]
        weight = exact(layer.weight)
        if isinstance(layer, _ConvTransposeNd):  # (I, O/groups, ...)
            per_group = own.reshape(layer.groups, 1, -1, *(1,) * (weight.dim() - 2))
            scaled = (weight.reshape(layer.groups, -1, *weight.shape[1:]) * per_group).flatten(0, 1)
        else:  # (O, I/groups, ...)
            scaled = weight * own.reshape(-1, *(1,) * (weight.dim() - 1))
        bias = offset if layer.bias is None else exact(layer.bias) * own + offset
        _put(layer, scaled, bias, norm)


def fuse_before(layers: Sequence[_ConvNd | nn.Linear], norm: _BatchNorm) -> None:
    """Fuse a batch norm in place into all layers that take its output.

    With a scale s and shift t per channel, a layer without zero padding computes
    W(s·x + t) + b = (W·s) x + (b + Σ W·t), summed over input channels and window.
    """
    scale, shift = _affine(norm)
    for layer in layers:
        weight = exact(layer.weight)  # (O, I/groups, ...)
        groups = getattr(layer, "groups", 1)
        shape = (groups, 1, -1, *(1,) * (weight.dim() - 2))
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        offset = (grouped * shift.reshape(shape)).flatten(2).sum(2).flatten()
        bias = offset if layer.bias is None else exact(layer.bias) + offset
        _put(layer, (grouped * scale.reshape(shape)).flatten(0, 1), bias, norm)


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return a batch norm's scale and shift per channel, each float64 ``(C,)``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(exact(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * exact(norm.weight)
    shift = -exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + exact(norm.bias)


def _put(layer: _ConvNd | nn.Linear, weight: Tensor, bias: Tensor, norm: _BatchNorm) -> None:
    before: Any = layer.weight
    weight, bias = weight.to(before), bias.to(before)
    if not all_finite(weight, bias):
        raise FusionError(f"hold NaN or infinite values: the training diverged, or they overflow {weight.dtype}")
    if before.dim() == 4 and before.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    trainable = any(p.requires_grad for p in [*layer.parameters(), *norm.parameters()])
    layer.weight = nn.Parameter(weight, requires_grad=trainable)
    layer.bias = nn.Parameter(bias, requires_grad=trainable)


def _pads_as_tensorflow(layer: nn.Module) -> bool:
    """Return True for timm's "same" convolution, whose padding depends on the input's size; imports no timm."""
    timm_layers = sys.modules.get("timm.layers")
    return timm_layers is not None and type(layer).forward is timm_layers.Conv2dSame.forward
