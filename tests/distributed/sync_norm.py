"""nn.SyncBatchNorm on the CPU, for processes that form a gloo group: torch has it for accelerators only."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class SumOverProcesses(torch.autograd.Function):
    """All-reduce. What every process makes of the sum depends on every summand, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor) -> Tensor:
        result = summand.clone()
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result = gradients[0].clone()
        dist.all_reduce(result)
        return result


def total(summand: Tensor) -> Tensor:
    summed = SumOverProcesses.apply(summand)  # type: ignore[no-untyped-call]
    assert isinstance(summed, Tensor)
    return summed


def sync_batch_norm(self: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """What nn.SyncBatchNorm computes, from its definition: torch has it for accelerators only.

    Mean and variance are those of the images of all processes, the running variance is the unbiased one.
    """
    assert self.running_mean is not None
    assert self.running_var is not None
    assert self.momentum is not None
    if not self.training:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
    dims = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    count = total(x.new_tensor(x.numel() // x.size(1)))
    mean = total(x.sum(dims)) / count
    centred = x - mean.view(shape)
    var = total(centred.square().sum(dims)) / count
    with torch.no_grad():
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * count / (count - 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
    scale = self.weight * (var + self.eps).rsqrt()
    return centred * scale.view(shape) + self.bias.view(shape)


def allow_sync_batch_norm_on_the_cpu() -> None:
    """Lightning's flag then converts the network as it does on GPUs; torch's layer and its DDP would both refuse."""
    as_torchs = {**globals(), "__name__": nn.SyncBatchNorm.__module__}  # or it would count as replaced by a stranger
    setattr(nn.SyncBatchNorm, "forward", FunctionType(sync_batch_norm.__code__, as_torchs))  # noqa: B010
    setattr(DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda self, module: None)  # noqa: B010
