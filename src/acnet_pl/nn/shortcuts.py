"""Conditions under which a block may skip the calls of its layers, or add in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import is_batch_norm
from acnet_pl.nn.inner_layers import why_other
from acnet_pl.nn.scale import ChannelScale

__all__ = ["is_traced", "is_transformed", "may_add_in_place", "needs_calls"]


def is_traced(x: object) -> bool:
    """Return True if torch.fx or torch.jit is recording operations; a kept kernel would become a constant."""
    return isinstance(x, Proxy) or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def is_transformed() -> bool:
    """Return True where torch.compile, torch.func or forward-mode differentiation needs PyTorch's own operations."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return forward_ad._current_level >= 0


def needs_calls(layers: Iterable[nn.Module | None], *containers: type[nn.Module]) -> bool:
    """Return True if a layer has a hook, parametrisation or another forward, which act only when it is called.

    Args:
        layers: Convolutions, batch norms, scales, and None for those that do not exist.
        containers: Other kinds of layers that are no reason to call them; any further kind is.
    """
    known = (nn.Conv2d, _BatchNorm, ChannelScale, *containers)
    return any(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "parametrizations" in layer._modules
        or not isinstance(layer, known)
        or why_other(layer)
        for layer in layers
        if layer is not None
    )


def may_add_in_place(norms: Iterable[nn.Module | None]) -> bool:
    """Return True if the outputs of the norms may be added in place, which saves memory and its allocation.

    A batch norm's output is a new tensor that its backward pass does not need. Nothing is known about other norms.
    Under torch.compile there is nothing to gain, and vmap cannot add a batched tensor in place to an unbatched one.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(norm is not None and is_batch_norm(norm) for norm in norms)
