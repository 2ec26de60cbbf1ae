"""Run command lines of acnet_pl in forked processes that form a group, and tell what each of them wrote.

Everything is imported once. Each line of the standard input is a JSON request ``{"folder": ..., "args": [...],
"processes": N, "launcher": "torchrun", "slurm" or "nodes"}``, answered by a line with the exit code of each process. In
the folder each leaves its output as ``rank<r>.txt`` and, as ``rank<r>.json``, which files it opened to write, made or
renamed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from acnet_pl.cli import main


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
    setattr(nn.SyncBatchNorm, "forward", sync_batch_norm)  # noqa: B010
    setattr(DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda self, module: None)  # noqa: B010


def variables(launcher: str, rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher tells a process: torchrun on one machine; srun, or a person, on a machine for each process."""
    told: dict[str, object] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "torchrun":
        told |= {"TORCHELASTIC_RUN_ID": "test", "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
        told |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    elif launcher == "slurm":
        told |= {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "test", "SLURM_NTASKS": processes, "SLURM_NNODES": processes}
        told |= {"SLURM_NTASKS_PER_NODE": 1, "SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0}
    else:
        told |= {"NODE_RANK": rank}
    return {name: str(value) for name, value in told.items()}


def work(folder: Path, args: list[str], rank: int, given: dict[str, str]) -> None:
    """Be one process of the group."""
    os.chdir(folder)
    output = os.open(f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(given)
    vars(rank_zero_only)["rank"] = _get_rank() or 0  # as where Lightning is imported now
    allow_sync_batch_norm_on_the_cpu()
    written: list[str] = []

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(str(details[0]))
        elif event in ("os.mkdir", "os.rename"):
            written.append(os.fsdecode(details[event == "os.rename"]))

    sys.addaudithook(note)
    code = 99
    try:
        code = main(args)
    except BaseException:
        traceback.print_exc()
    inside = [os.path.relpath(path) for path in list(written) if Path(path).absolute().is_relative_to(folder)]
    Path(f"rank{rank}.json").write_text(json.dumps(inside))
    sys.stdout.flush()
    os._exit(code)


def run(folder: str, args: list[str], processes: int, launcher: str) -> list[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            work(Path(folder), args, rank, variables(launcher, rank, processes, port) if processes > 1 else {})
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
