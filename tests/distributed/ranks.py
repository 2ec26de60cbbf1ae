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

from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.utilities import rank_zero_only

from acnet_pl.cli import main

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds the tests' modules by this
from tests.distributed.sync_norm import allow_sync_batch_norm_on_the_cpu


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
        if event == "open" and isinstance(details[0], int):
            return  # a descriptor that is open already, such as standard output
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
