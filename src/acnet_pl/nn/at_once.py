"""Evaluate B branches as one convolution with B·C_out outputs and one batch norm: fewer and larger operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.share import work_alike

__all__ = ["normalise_and_add", "side_by_side", "track_alike"]


def side_by_side(kernels: Sequence[Tensor], geometries: Sequence[BranchGeometry]) -> Tensor:
    """Embed B kernels ``(O, I, h, w)`` in the block's window and stack them to ``(B·O, I, k, k)``."""
    return torch.cat([geometry.embed(kernel) for kernel, geometry in zip(kernels, geometries, strict=True)])


def track_alike(norms: Sequence[nn.Module | None]) -> bool:
    """Return True if one batch norm over all channels can stand for these: each once, and none synchronised."""
    if torch._C._are_functorch_transforms_active() or len({*map(id, norms)}) < len(norms):
        return False
    return work_alike(norms) and all(
        isinstance(norm, _BatchNorm)
        and not isinstance(norm, nn.SyncBatchNorm)
        and norm.momentum is not None
        and norm.track_running_stats
        and norm.momentum == norms[0].momentum  # type: ignore[union-attr]
        for norm in norms
    )


def normalise_and_add(norms: Sequence[_BatchNorm], y: Tensor) -> Tensor:
    """Normalise ``(N, B·C, H, W)`` with B batch norms that `track_alike`, and add the B results.

    The running statistics of the batch norms are updated.

    Returns:
        ``(N, C, H, W)``.
    """
    mean, var = (torch.cat([getattr(norm, name) for norm in norms]) for name in ("running_mean", "running_var"))
    weight, bias = (
        torch.cat([getattr(norm, name) for norm in norms]) if norms[0].affine else None for name in ("weight", "bias")
    )
    y = F.batch_norm(y, mean, var, weight, bias, True, norms[0].momentum or 0.0, norms[0].eps)
    with torch.no_grad():
        for name, values in (("running_mean", mean), ("running_var", var)):
            torch._foreach_copy_([getattr(norm, name) for norm in norms], list(values.chunk(len(norms))))
        torch._foreach_add_([norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None], 1)
    return reduce(torch.add, y.chunk(len(norms), 1))  # a sum over a dimension would not be channels-last
