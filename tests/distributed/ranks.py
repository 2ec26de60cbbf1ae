"""Run command lines of acnet_pl in forked processes that form a group, and tell what each of them wrote."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import _get_rank
from tests.distributed.sync_norm import allow_sync_batch_norm_on_the_cpu
from tests.process_server import be_rank, draw_nothing, fork, free_port, torchrun

from acnet_pl.cli import main


def variables(launcher: str, rank: int, processes: int, port: int) -> dict[str, str]:
    """What a launcher tells a process: torchrun on one machine; srun, or a person, on a machine for each process."""
    if launcher == "torchrun":
        return torchrun(rank, processes, port)
    told: dict[str, object] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "slurm":
        told |= {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "test", "SLURM_NTASKS": processes, "SLURM_NNODES": processes}
        told |= {"SLURM_NTASKS_PER_NODE": 1, "SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0}
    else:
        told |= {"NODE_RANK": rank}
    return {name: str(value) for name, value in told.items()}


def work(folder: Path, args: list[str], rank: int, given: dict[str, str]) -> int:
    """Be one process of the group."""
    os.environ.update(given)
    be_rank(_get_rank() or 0)
    allow_sync_batch_norm_on_the_cpu()
    setattr(import_module("acnet_pl.cli.lightning"), "check_synchronised_norms", lambda *_: None)  # noqa: B010
    draw_nothing()
    written: list[str] = []

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(details[0], int):
            return  # a descriptor that is open already, such as standard output
        if event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(str(details[0]))
        elif event in ("os.mkdir", "os.rename"):
            written.append(os.fsdecode(details[event == "os.rename"]))

    sys.addaudithook(note)
    code = main(args)
    inside = [os.path.relpath(path) for path in list(written) if Path(path).absolute().is_relative_to(folder)]
    Path(f"rank{rank}.json").write_text(json.dumps(inside))
    return code


def run(folder: str, args: list[str], processes: int, launcher: str) -> list[int]:
    """Run them to their end; gives their exit codes.

    Each leaves its output in the folder as ``rank<r>.txt`` and, as ``rank<r>.json``, which files it opened to write,
    made or renamed.
    """
    port, where, children = free_port(), Path(folder), []
    for rank in range(processes):
        given = variables(launcher, rank, processes, port) if processes > 1 else {}
        children.append(
            fork(lambda rank=rank, given=given: work(where, args, rank, given), where, where / f"rank{rank}.txt")  # type: ignore[misc]
        )
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
