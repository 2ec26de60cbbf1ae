"""Mean and variance of each channel of a batch, over all processes of a synchronised batch norm, differentiable."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.shortcuts import is_transformed

__all__ = ["channel_moments", "process_group"]


def process_group(norm: nn.Module | None) -> Any:
    """Return the processes over which a SyncBatchNorm normalises, or None if this is the only one."""
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def channel_moments(y: Tensor, norm: _BatchNorm) -> tuple[Tensor, Tensor, float | Tensor]:
    """Return mean, biased variance and number of values per channel, over the processes that a norm has."""
    mean, var = _mean_and_variance(y)
    count, group = y.numel() // y.shape[1], process_group(norm)
    return (mean, var, count) if group is None else _over_processes(mean, var, count, group)


class _Moments(torch.autograd.Function):
    """Mean and biased variance per channel, in float32 or better; several times faster than var_mean on a CPU."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(y.dtype, torch.float32)
        running = None if dtype == y.dtype else y.new_zeros(y.shape[1], dtype=dtype)  # the results have its type
        mean, var = torch.batch_norm_update_stats(y, running, running, 0.0)
        ctx.save_for_backward(y, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor:
        (y, mean), (to_mean, to_var) = ctx.saved_tensors, gradients
        count = y.numel() // y.shape[1]
        slope = torch.zeros_like(mean) if to_var is None else to_var * (2 / count)
        offset = -slope * mean if to_mean is None else to_mean / count - slope * mean
        return torch.addcmul(offset.view(-1, 1, 1), y, slope.view(-1, 1, 1)).to(y.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce. Every process uses the sum, so the gradient of a summand is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor, group: Any) -> Tensor:
        ctx.group = group
        result = summand.clone()
        dist.all_reduce(result, group=group)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _SumOverProcesses.apply(gradients[0], ctx.group), None


def _mean_and_variance(y: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(y.dtype, torch.float32)
    if not y.numel():  # this process has no images in this step, but others have some
        none = y.to(wide).sum((0, 2, 3))
        return none, none
    if not _has_update_stats(y):
        var, mean = torch.var_mean(y.to(wide), (0, 2, 3), correction=0)
        return mean, var
    moments: tuple[Tensor, Tensor] = _Moments.apply(y)
    return moments


def _has_update_stats(y: Tensor) -> bool:
    """Return True where batch_norm_update_stats runs; it has no kernel for meta and fake tensors, and no derivative."""
    if is_transformed():
        return False
    return type(y) is Tensor and y.device.type in ("cpu", "cuda")


def _over_processes(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and number of values over all processes, whose batches may differ in size."""
    summands = torch.cat([mean.flatten() * count, mean.new_tensor([count])])
    sums = _SumOverProcesses.apply(summands, group)
    total = sums[-1].detach()
    common = (sums[:-1] / total).view_as(mean)
    sums = _SumOverProcesses.apply((var + (mean - common).square()) * count, group)
    return common, sums / total, total
