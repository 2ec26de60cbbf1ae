"""Batch norms with the statistics of a batch's first images, so that branches need not process the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import is_batch_norm
from acnet_pl.nn.shortcuts import is_traced

__all__ = ["images_in_share", "normalise_by_share", "scale_and_shift", "share_fraction", "take_images", "work_alike"]


def share_fraction(share: float, branch_norm: bool | str) -> Fraction:
    """Return a share of the batch as a fraction.

    Raises:
        ValueError: The share is not a number in (0, 1], or is less than 1 without batch norms in the branches.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(
            f"`statistics_share` (={share!r}) must be a number greater than 0 and at most 1: the share of a batch's "
            "images whose statistics the branches' batch norms use; 1 is the exact block"
        )
    if share != 1 and branch_norm is not True:
        raise ValueError(
            f"`statistics_share` (={share}) needs branch_norm=True, a batch norm in every branch; with `branch_norm` "
            f"(={branch_norm!r}) the block trains with one convolution already: leave `statistics_share` out"
        )
    return Fraction(share).limit_denominator(4096) or Fraction(1, 4096)


def images_in_share(x: Tensor, share: Fraction, norm: nn.Module | None) -> int | None:
    """Return the number of a batch's images that are in its share, rounded up and at least two.

    Args:
        x: The batch.
        share: The share of the batch.
        norm: A branch's batch norm.

    Returns:
        The number, which may exceed the batch's size; None if the share holds all images, which is the exact block.
        With a synchronised norm it is never None: other processes may have larger batches, and all processes must
        exchange the same sums.

    Raises:
        RuntimeError: torch.fx or torch.jit is recording operations; the number would become a constant.
    """
    if share.numerator == share.denominator:  # torch 2.6 compiles no comparison of fractions
        return None
    if is_traced(x):
        raise RuntimeError(
            f"torch.fx and torch.jit cannot record training with `statistics_share` (={float(share)}) less than 1; "
            "call model.eval() before tracing, or set the block's `statistics_share` to 1"
        )
    wanted = max(2, -(-len(x) * share.numerator // share.denominator))
    if torch.compiler.is_compiling() or (isinstance(norm, _BatchNorm) and _process_group(norm) is not None):
        return wanted
    return wanted if wanted < len(x) else None


def work_alike(norms: Sequence[nn.Module | None]) -> bool:
    """Return True if all are batch norms in train mode with equal settings, which can be computed together."""
    first = None
    for norm in norms:
        if norm is None or not is_batch_norm(norm) or not norm.training:
            return False
        first = norm if first is None else first
        same_group = _process_group(norm) is _process_group(first)
        if not same_group or norm.eps != first.eps or norm.affine != first.affine:
            return False
    return first is not None


def take_images(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``x`` and its first ``count`` images. Use the first result only once, and instead of ``x``.

    By default the gradient of a slice is a whole batch, with zeros outside the slice. In eager mode this avoids
    that batch: it adds the slice's gradient in place to the other result's.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or not x.requires_grad:
        return x, x[:count]
    whole, part = _TakeImages.apply(x, count)
    return whole, part


def scale_and_shift(norms: Sequence[_BatchNorm], outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the factors and shifts of batch norms that `work_alike`, and update their running statistics.

    Args:
        norms: B batch norms, each of C channels.
        outputs: Inputs of the norms: one ``(n, C, H, W)`` for each norm, or a single ``(n, B·C, H, W)``.

    Returns:
        Factors γ/σ and shifts β - μγ/σ, each ``(B, C)``, differentiable in outputs, γ and β.

    Raises:
        ValueError: There is at most one value per channel.
    """
    count = outputs[0].numel() // outputs[0].shape[1]
    group = _process_group(norms[0])
    if count < 2 and group is None:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got `statistics_share` of the batch (="
            f"{tuple(outputs[0].shape)}); train with larger batches or a larger share, or put the norm in eval mode"
        )
    moments = [_Moments.apply(output) for output in outputs]
    mean, var = (torch.cat(values).view(len(norms), -1) for values in zip(*moments, strict=True))
    total: float | Tensor = count
    if group is not None:
        mean, var, total = _over_processes(mean, var, count, group)
    _track(norms, mean.detach(), var.detach(), total)
    scale = torch.rsqrt(var + norms[0].eps)
    if norms[0].affine:
        scale = torch.stack([norm.weight for norm in norms]).to(scale.dtype) * scale
    shift = -mean * scale
    if norms[0].affine:
        shift = shift + torch.stack([norm.bias for norm in norms]).to(scale.dtype)
    return scale, shift


def normalise_by_share(norm: nn.Module | None, y: Tensor, count: int) -> Tensor:
    """Apply a batch norm to ``(N, C, H, W)`` with the statistics of the first ``count`` images."""
    assert isinstance(norm, _BatchNorm)
    if norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks:
        raise RuntimeError(
            "a branch's batch norm has a hook, which is not called where statistics come from a share of the batch; "
            "remove the hook, or set the block's `statistics_share` to 1"
        )
    scale, shift = scale_and_shift([norm], [y[:count]])
    return torch.addcmul(shift.view(-1, 1, 1), y, scale.view(-1, 1, 1)).to(y.dtype)


class _TakeImages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        ctx.count = count
        return x.view_as(x), x[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole, part = gradients
        if torch.is_grad_enabled():  # a graph of the gradients is wanted
            return torch.cat([whole[: ctx.count] + part, whole[ctx.count :]]), None
        whole[: ctx.count] += part
        return whole, None


class _Moments(torch.autograd.Function):
    """Mean and biased variance per channel, in float32 or better; several times faster than var_mean on a CPU."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> tuple[Tensor, Tensor]:
        channels, dtype = y.shape[1], torch.promote_types(y.dtype, torch.float32)
        mean, var = y.new_zeros(channels, dtype=dtype), y.new_zeros(channels, dtype=dtype)
        if not y.numel():  # this process has no images in this step, but others have some
            return mean, var
        torch.native_batch_norm(
            y, None, None, mean, var, True, 1.0, 1e-5
        )  # momentum 1: the running statistics become this batch's
        count = y.numel() // channels
        # The biased variance of a single value is 0; PyTorch's unbiased one is NaN.
        return mean, var * ((count - 1) / count) if count > 1 else torch.zeros_like(var)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y, mean), (to_mean, to_var) = ctx.saved_tensors, gradients
        count = max(1, y.numel() // y.shape[1])
        slope = to_var * (2 / count)
        offset = to_mean / count - slope * mean
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


def _process_group(norm: _BatchNorm) -> Any:
    """Return the processes over which a SyncBatchNorm normalises, or None if this is the only one."""
    if not isinstance(norm, nn.SyncBatchNorm) or not dist.is_available() or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def _over_processes(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and number of values over all processes, whose batches may differ in size."""
    summands = torch.cat([mean.flatten() * count, mean.new_tensor([count])])
    sums = _SumOverProcesses.apply(summands, group)
    total = sums[-1].detach()
    common = (sums[:-1] / total).view_as(mean)
    sums = _SumOverProcesses.apply((var + (mean - common).square()) * count, group)
    return common, sums / total, total


def _track(norms: Sequence[_BatchNorm], means: Tensor, variances: Tensor, count: float | Tensor) -> None:
    """Update running statistics with the batch's detached ones, as the batch norm itself would."""
    unbiased = variances * (count / (count - 1))
    for norm, mean, var in zip(norms, means, unbiased, strict=True):
        if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
            momentum = norm.momentum or 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
                if norm.momentum is None:  # a cumulative average
                    momentum = 1.0 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            norm.running_var.lerp_(var.to(norm.running_var.dtype), momentum)
