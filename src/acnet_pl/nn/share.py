"""Branch batch norms for which the branches need not process the whole batch, only its first images, its share.

The share tells how large the branches are beside each other; mean and standard deviation of their sum are the whole
batch's, whose sum one convolution gives. With S = Σ γ_i / σ_i · y_i, where σ_i is the share's, the block's output is
(S - mean S) · std_share S / std S + Σ β_i. With all images in the share it is the sum of the branches' batch norms.

The eps of the batch norms is added to variances of the size of the branches': S is divided by the root of
Σ (γ_i / σ_i)² first. So it weighs as in a batch norm, whatever γ is, and where a channel is constant in the share, its
output has the variance Σ γ_i² of unrelated branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import is_batch_norm
from acnet_pl.nn.moments import channel_moments, process_group
from acnet_pl.nn.shortcuts import is_traced, is_transformed

__all__ = [
    "ShareStatistics",
    "images_in_share",
    "normalise_branches",
    "normalise_sum",
    "share_fraction",
    "share_statistics",
    "take_images",
    "work_alike",
]


_TINY = 1e-12  # keeps derivatives finite where all γ are 0


def share_fraction(share: Any, branch_norm: bool | str) -> Fraction:
    """Return a share of the batch as a fraction.

    Raises:
        ValueError: The share is not a number in (0, 1], or is less than 1 without batch norms in the branches.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < float(share) <= 1:
        raise ValueError(
            f"`statistics_share` (={share!r}) must be a number greater than 0 and at most 1: the share of a batch's "
            "images whose statistics the branches' batch norms use; 1 is the exact block"
        )
    if share != 1 and branch_norm is not True:
        raise ValueError(
            f"`statistics_share` (={share}) needs branch_norm=True, a batch norm in every branch; with `branch_norm` "
            f"(={branch_norm!r}) the block trains with one convolution already: leave `statistics_share` out"
        )
    nearest = Fraction(float(share)).limit_denominator(4096)
    return min(max(nearest, Fraction(1, 4096)), Fraction(4095, 4096)) if share < 1 else Fraction(1)


def images_in_share(x: Tensor, share: Fraction, norms: Sequence[nn.Module | None]) -> int | None:
    """Return the number of a batch's images that are in its share, rounded up and at least two.

    Args:
        x: The batch.
        share: The share of the batch.
        norms: The branches' batch norms.

    Returns:
        The number, which may exceed the batch's size; None if the share holds all images, which is the exact block, if
        the norms do not `work_alike`, and for an image without batch dimension, which batch norms refuse.
        With a synchronised norm it is never None: other processes may have larger batches, and all processes must
        exchange the same sums.

    Raises:
        RuntimeError: torch.fx or torch.jit is recording operations; the number would become a constant.
    """
    if share.numerator == share.denominator or not work_alike(norms):  # torch 2.6 compares no fractions when compiling
        return None
    if is_traced(x):
        raise RuntimeError(
            f"torch.fx and torch.jit cannot record training with `statistics_share` (={float(share)}) less than 1; "
            "call model.eval() before tracing, or set the block's `statistics_share` to 1"
        )
    if x.dim() != 4:
        return None
    wanted = max(2, -(-len(x) * share.numerator // share.denominator))
    if torch.compiler.is_compiling() or process_group(norms[0]) is not None:
        return wanted
    return wanted if wanted < len(x) else None


def work_alike(norms: Sequence[nn.Module | None]) -> bool:
    """Return True if all are batch norms in train mode with equal settings and no hooks, to compute together."""
    first = None
    for norm in norms:
        if norm is None or not is_batch_norm(norm) or not norm.training or _has_hooks(norm):
            return False
        first = norm if first is None else first
        same_group = process_group(norm) is process_group(first)
        if not same_group or norm.eps != first.eps or norm.affine != first.affine:
            return False
    return first is not None


def take_images(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``x`` and its first ``count`` images. Use the first result only once, and instead of ``x``.

    By default the gradient of a slice is a whole batch, with zeros outside the slice. In eager mode this avoids
    that batch: it adds the slice's gradient in place to the other result's.
    """
    if is_transformed() or not x.requires_grad:
        return x, x[:count]
    whole, part = _TakeImages.apply(x, count)
    return whole, part


class ShareStatistics(NamedTuple):
    """Statistics of a share of the batch, over all processes of a SyncBatchNorm.

    Attributes:
        mean: Of each branch, ``(B, C)``.
        var: Biased variance of each branch, ``(B, C)``.
        scale: γ/σ of each branch, over ``size``, ``(B, C)``.
        size: Root of the sum of the branches' (γ/σ)², ``(C,)``.
    """

    mean: Tensor
    var: Tensor
    scale: Tensor
    size: Tensor


def share_statistics(norms: Sequence[_BatchNorm], outputs: Sequence[Tensor]) -> ShareStatistics:
    """Return the statistics of a share, differentiable in outputs and γ.

    Args:
        norms: B batch norms that `work_alike`, each of C channels.
        outputs: Inputs of the norms: one ``(n, C, H, W)`` for each norm, or a single ``(n, B·C, H, W)``.

    Raises:
        ValueError: There is at most one value per channel.
    """
    count = outputs[0].numel() // outputs[0].shape[1]
    if count < 2 and process_group(norms[0]) is None:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got `statistics_share` of the batch (="
            f"{tuple(outputs[0].shape)}); train with larger batches or a larger share, or put the norm in eval mode"
        )
    moments = [channel_moments(output, norms[0])[:2] for output in outputs]
    mean, var = (torch.cat(values).view(len(norms), -1) for values in zip(*moments, strict=True))
    scale = torch.rsqrt(var + norms[0].eps)
    if norms[0].affine:
        scale = torch.stack([norm.weight for norm in norms]).to(scale.dtype) * scale
    size = torch.sqrt(scale.square().sum(0) + _TINY)
    return ShareStatistics(mean, var, scale / size, size)


def normalise_sum(norms: Sequence[_BatchNorm], of: ShareStatistics, total: Tensor, count: int) -> Tensor:
    """Normalise the sum of the branches as their batch norms would, and update their running statistics.

    How large the branches are beside each other is the share's; mean and standard deviation of their sum are the whole
    batch's. Where the share as a whole is brighter or of more contrast than the batch, this leaves it out.

    Args:
        norms: The branches' batch norms.
        of: Result of `share_statistics`.
        total: Sum of the branches' outputs ``(N, C, H, W)``, each times its scale. Use the result instead of it.
        count: Number of images in the share, the first ones.
    """
    eps = norms[0].eps
    total, share = take_images(total, count)
    _, spread, seen = channel_moments(share, norms[0])
    weight = torch.sqrt(spread + eps) * of.size
    bias = torch.zeros_like(weight)
    if norms[0].affine:  # stacked first, for the gradients of the β would share their memory
        bias = reduce(torch.add, torch.stack([norm.bias for norm in norms]).to(weight).unbind())
    if process_group(norms[0]) is None:
        out, mean, inverse = torch.native_batch_norm(total, weight, bias, None, None, True, 0.0, eps)
        values: float | Tensor = total.numel() // total.shape[1]
    else:
        mean, var, values = channel_moments(total, norms[0])
        inverse = torch.rsqrt(var + eps)
        scale = weight * inverse
        shift = bias - mean * scale
        out = torch.addcmul(shift.view(-1, 1, 1), total, scale.view(-1, 1, 1)).to(total.dtype)
    contrast = (spread.detach() + eps) * inverse.detach().square()
    _track(norms, of, mean.detach(), contrast, values, seen / values)
    return out


def normalise_branches(norms: Sequence[nn.Module | None], outputs: Sequence[Tensor], count: int) -> Tensor:
    """Return the sum of the branches' outputs ``(N, C, H, W)``, normalised with a share of the first images."""
    found = [norm for norm in norms if isinstance(norm, _BatchNorm)]
    of = share_statistics(found, [output[:count] for output in outputs])
    scaled = [output * scale.view(-1, 1, 1).to(output) for output, scale in zip(outputs, of.scale, strict=True)]
    return normalise_sum(found, of, reduce(torch.add, scaled), count)


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


def _has_hooks(norm: nn.Module) -> bool:
    hooks = (norm._forward_hooks, norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks)
    return any(hooks)


def _track(
    norms: Sequence[_BatchNorm],
    of: ShareStatistics,
    mean: Tensor,
    contrast: Tensor,
    count: float | Tensor,
    part: float | Tensor,
) -> None:
    """Update running statistics, as the batch norms would with the share's, corrected by what the whole batch tells.

    The smallest change of the branches' means, weighted by scale, moves the mean of the sum to the whole batch's. A
    share counts for the running variance by its contrast c: with momentum m a running variance R becomes
    ((1 - m) R + m v) / ((1 - m) + m c'), where v is the share's and c' = 1 + (1 - m) (c - 1). So R is a mean of v over
    a mean of c, and a share of next to no contrast does no harm, as it would if v / c were averaged.

    Args:
        norms: The branches' batch norms.
        of: Result of `share_statistics`.
        mean: Of the sum over the batch ``(C,)``.
        contrast: Variance of the sum in the share over that in the batch ``(C,)``.
        count: Number of values per channel in the batch.
        part: Part of them that is in the share.
    """
    own, scale = of.mean.detach(), of.scale.detach()
    step = (mean - (scale * own).sum(0)) / scale.square().sum(0).clamp_min(torch.finfo(scale.dtype).tiny)
    means = torch.addcmul(own, scale, step)
    unbiased = of.var.detach() * (count / (count - 1))
    tracking = [norm for norm in norms if norm.track_running_stats and norm.running_var is not None]
    if len(tracking) == len(norms):
        contrast = contrast * (1 + (1 - part) * _excess(norms, of))
    for norm, new_mean, new_var in zip(norms, means, unbiased, strict=True):
        if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
            momentum: float | Tensor = norm.momentum or 0.0
            wide, tracked = norm.running_var.dtype, norm.num_batches_tracked
            if tracked is not None:
                tracked.add_(1)
                if norm.momentum is None:  # a cumulative average
                    momentum = tracked.to(wide).reciprocal()
            norm.running_mean.lerp_(new_mean.to(wide), momentum)
            old = 1 - momentum
            mixed = norm.running_var * old + new_var.to(wide) * momentum
            norm.running_var.copy_(mixed / (old + momentum * (1 + old * (contrast.to(wide) - 1))))


def _excess(norms: Sequence[_BatchNorm], of: ShareStatistics) -> Tensor:
    """Return by what part the contrast of a sum with running scales exceeds that with scales of the share, ``(C,)``.

    The scales of the share are small where its variances v happen to be large. So the contrast of their sum is a
    harmonic mean of v / R over the branches, which is less than the arithmetic one that belongs to a mean of v.
    """
    eps = norms[0].eps
    running = torch.stack([norm.running_var for norm in norms if norm.running_var is not None]).to(of.var.dtype)
    ratio = (of.var.detach() + eps) / (running + eps)
    weight = of.scale.detach().square() * (of.var.detach() + eps) + _TINY
    weight = weight / weight.sum(0)
    ratio = (ratio / (weight * ratio).sum(0)).clamp(0.1, 10)
    return (weight * ratio).sum(0) * (weight / ratio).sum(0) - 1
