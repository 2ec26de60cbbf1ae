"""When a block may compute what its layers compute without calling them, or in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.fx import Proxy

from acnet_pl.nn.fusible import is_batch_norm

__all__ = ["is_traced", "may_add_in_place", "needs_calls"]


def is_traced(x: object) -> bool:
    """Whether torch.fx or torch.jit records the layers, for which a kept kernel would be a constant."""
    return isinstance(x, Proxy) or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def needs_calls(layers: Iterable[nn.Module | None]) -> bool:
    """Whether a layer has a hook or a parametrisation, which work only when that layer is called."""
    return any(
        layer._modules
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        for layer in layers
        if layer is not None
    )


def may_add_in_place(norms: Iterable[nn.Module | None]) -> bool:
    """Whether the outputs of norms may be added in place, which saves memory and the time to allocate it.

    They are new tensors, and the backward pass of batch norm does not need them; of other norms nothing is known. Where
    PyTorch transforms the function there is nothing to gain, and vmap cannot add what is batched to what is not.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(norm is not None and is_batch_norm(norm) for norm in norms)
