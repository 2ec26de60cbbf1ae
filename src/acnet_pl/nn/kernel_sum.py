"""sum_kernels: compute a block's single kernel in few operations, for blocks that need it for every batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.shortcuts import is_transformed

__all__ = ["frozen_scales_and_shift", "fuse_frozen", "sum_kernels"]


def frozen_scales_and_shift(norms: Sequence[nn.Module | None]) -> tuple[list[Tensor | None], Tensor | None]:
    """Return the factor of each frozen norm and the sum of their shifts, in float32 or better.

    Batch norms with equal settings are computed together, because the number of operations decides the time for a
    single image.

    Args:
        norms: Batch norms in eval mode, scales or None, each of C channels.

    Returns:
        Factors ``(C, 1, 1, 1)`` for each norm, None for 1; and the sum of all shifts ``(C,)``, None for 0.
    """
    first, *others = norms
    if others and not all(_are_alike(first, norm) for norm in others):
        parts = [frozen_scales_and_shift([norm]) for norm in norms]
        summands = [shift for _, shift in parts if shift is not None]
        return [scale for scales, _ in parts for scale in scales], sum(summands[1:], summands[0]) if summands else None
    if not isinstance(first, _BatchNorm):
        return [norm.weight.view(-1, 1, 1, 1) if isinstance(norm, ChannelScale) else None for norm in norms], None
    names = ["running_var", "running_mean", "weight", "bias"] if first.affine else ["running_var", "running_mean"]
    values = torch.cat([getattr(norm, name) for name in names for norm in norms])
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    var, mean, *affine = values.view(len(names), len(norms), -1, 1, 1, 1).unbind()
    scale = torch.rsqrt(var + first.eps)
    if affine:
        scale = affine[0] * scale
        shifts = torch.addcmul(affine[1], mean, scale, value=-1)
    else:
        shifts = -mean * scale
    return list(scale.unbind()), shifts.sum((0, 2, 3, 4))


def fuse_frozen(
    kernels: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    norms: Sequence[nn.Module | None],
    geometries: Sequence[BranchGeometry],
    after: nn.Module | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Fuse branches whose last layers are frozen into one kernel and bias, for one batch (Eq. 2, 3, 6 and 7).

    Args:
        kernels: The kernel of each branch without its last layer; the first one fills the window.
        biases: The bias ``(O,)`` of each; None is 0.
        norms: The last layer of each: a batch norm in eval mode, a scale or None.
        geometries: The places of the kernels.
        after: The batch norm after the sum, also in eval mode; None if there is none.

    Returns:
        Kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)``, None for 0; differentiable, in the higher precision of both.
    """
    scales, shift = frozen_scales_and_shift(norms)
    for scale, bias in zip(scales, biases, strict=True):
        if bias is not None:
            part = bias if scale is None else bias * scale.flatten()
            shift = part if shift is None else shift + part
    kernel = sum_kernels(kernels, scales, geometries)
    if after is None:
        return kernel, shift
    (outer,), offset = frozen_scales_and_shift([after])
    assert outer is not None
    if shift is not None:
        offset = shift * outer.flatten() if offset is None else torch.addcmul(offset, shift, outer.flatten())
    return kernel * outer, offset


def sum_kernels(
    kernels: Sequence[Tensor], scales: Sequence[Tensor | None], geometries: Sequence[BranchGeometry]
) -> Tensor:
    """Scale kernels by a factor per output channel and add them at their places in the window (Eq. 3 and 6).

    Args:
        kernels: ``(O, I/groups, h, w)``; the first one fills the window.
        scales: ``(O, 1, 1, 1)`` for each kernel; None is 1.
        geometries: The places of the kernels.

    Returns:
        ``(O, I/groups, kH, kW)``, differentiable, in the higher precision of kernels and scales.
    """
    if is_transformed():
        total: Tensor | None = None
        for kernel, scale, geometry in zip(kernels, scales, geometries, strict=True):
            part = geometry.embed(_scaled(kernel, scale))
            total = part if total is None else total + part
        assert total is not None
        return total
    places = [geometry.place() for geometry in geometries]
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (*kernels, *scales)):
        result: Tensor = _SumKernels.apply(places, *kernels, *scales)
        return result
    return _add_in_places(places, kernels, scales)


def _are_alike(first: nn.Module | None, norm: nn.Module | None) -> bool:
    if not isinstance(first, _BatchNorm):
        return not isinstance(norm, _BatchNorm)
    return isinstance(norm, _BatchNorm) and norm.eps == first.eps and norm.affine == first.affine


def _scaled(kernel: Tensor, scale: Tensor | None) -> Tensor:
    return kernel if scale is None else kernel * scale


def _add_in_places(
    places: Sequence[tuple[slice, slice]], kernels: Sequence[Tensor], scales: Sequence[Tensor | None]
) -> Tensor:
    total = kernels[0].clone() if scales[0] is None else _scaled(kernels[0], scales[0])
    for place, kernel, scale in zip(places[1:], kernels[1:], scales[1:], strict=True):
        _part(total, place).add_(_scaled(kernel, scale))
    return total


def _part(window: Tensor, place: tuple[slice, slice]) -> Tensor:
    """Return a view of some rows and columns, in as few operations as possible."""
    for dim, span in zip((2, 3), place, strict=True):
        if (length := span.stop - span.start) < window.shape[dim]:
            window = window.narrow(dim, span.start, length)
    return window


class _SumKernels(torch.autograd.Function):
    """Adds kernels into the window in place; neither 1-D kernels nor their gradients are padded."""

    @staticmethod
    def forward(ctx: Any, places: list[tuple[slice, slice]], *tensors: Any) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(*tensors)
        return _add_in_places(places, tensors[: len(places)], tensors[len(places) :])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.places)
        saved = ctx.saved_tensors  # read once: under gradient checkpointing every reading unpacks them
        kernels, scales = saved[:count], saved[count:]
        to_kernels: list[Tensor | None] = [None] * count
        to_scales: list[Tensor | None] = [None] * count
        for index, place in enumerate(ctx.places):
            part = _part(gradients[0], place)
            if ctx.needs_input_grad[1 + index]:
                own = part.clone() if index and scales[index] is None else part  # no two gradients share their memory
                to_kernels[index] = _scaled(own, scales[index]).to(kernels[index].dtype)
            if ctx.needs_input_grad[1 + count + index]:
                to_scales[index] = (part * kernels[index]).sum((1, 2, 3), keepdim=True).to(scales[index].dtype)
        return None, *to_kernels, *to_scales
