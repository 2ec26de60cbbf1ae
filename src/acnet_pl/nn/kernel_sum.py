"""sum_kernels: the one kernel of a block, as cheap as can be, for blocks that make it anew for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.scale import ChannelScale

__all__ = ["frozen_scale_and_shift", "sum_kernels"]


def frozen_scale_and_shift(norm: nn.Module | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the factors and summands ``(C,)``, float32 at least, of a norm that is frozen; None for 1 and for 0."""
    if isinstance(norm, ChannelScale):
        return norm.weight, None
    if not isinstance(norm, _BatchNorm):
        return None, None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    dtype = torch.promote_types(norm.running_var.dtype, torch.float32)
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.affine:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, norm.bias + shift if norm.affine else shift


def sum_kernels(
    kernels: Sequence[Tensor], scales: Sequence[Tensor | None], geometries: Sequence[BranchGeometry]
) -> Tensor:
    """Add kernels, each times a factor per output channel, in their places of the window (Eq. 3 and 6).

    Args:
        kernels: ``(O, I/groups, h, w)``; the first one fills the window.
        scales: ``(O,)`` for each kernel; None is 1.
        geometries: Where the kernels lie.

    Returns:
        ``(O, I/groups, kH, kW)``, differentiable, in the scales' precision where they have more than the kernels.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        total: Tensor | None = None
        for kernel, scale, geometry in zip(kernels, scales, geometries, strict=True):
            part = geometry.embed(_scaled(kernel, scale))
            total = part if total is None else total + part
        assert total is not None
        return total
    places = [geometry.place() for geometry in geometries]
    result: Tensor = _SumKernels.apply(places, *kernels, *scales)
    return result


def _scaled(kernel: Tensor, scale: Tensor | None) -> Tensor:
    return kernel if scale is None else kernel * scale.view(-1, 1, 1, 1)


class _SumKernels(torch.autograd.Function):
    """Adds into the window in place; kernels of a row or column are neither padded nor are their gradients."""

    @staticmethod
    def forward(ctx: Any, places: list[tuple[slice, slice]], *tensors: Tensor | None) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(*tensors)
        first, *kernels = tensors[: len(places)]
        scale, *scales = tensors[len(places) :]
        assert first is not None
        total = first.clone() if scale is None else _scaled(first, scale)
        for (rows, columns), kernel, scale in zip(places[1:], kernels, scales, strict=True):
            assert kernel is not None
            total[:, :, rows, columns] += _scaled(kernel, scale)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.places)
        kernels, scales = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        to_kernels: list[Tensor | None] = [None] * count
        to_scales: list[Tensor | None] = [None] * count
        for index, (rows, columns) in enumerate(ctx.places):
            part = gradients[0][:, :, rows, columns]
            if ctx.needs_input_grad[1 + index]:
                own = part.clone() if index and scales[index] is None else part  # no two gradients share their memory
                to_kernels[index] = _scaled(own, scales[index]).to(kernels[index].dtype)
            if ctx.needs_input_grad[1 + count + index]:
                to_scales[index] = (part * kernels[index]).sum((1, 2, 3)).to(scales[index].dtype)
        return None, *to_kernels, *to_scales
