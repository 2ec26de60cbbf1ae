"""Number and start method of the processes that read and decode."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Any

__all__ = ["leave_process_group", "worker_context", "worker_count"]


def worker_count(asked: int) -> int:
    """Return the number of worker processes to start: as asked, but at most one for each core of this process.

    Args:
        asked: Workers asked for, 0 for none.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked, cores)


def worker_context(world_size: int, num_workers: int) -> BaseContext | None:
    """Return a start method for worker processes that is safe beside the threads of a process group.

    A fork of a process in which gloo or NCCL have threads can hang for ever. There, workers are forked from a server
    that has imported what they need and nothing else.

    Args:
        world_size: Processes that train.
        num_workers: Workers of each of them.

    Returns:
        A context for `DataLoader`, or None where the platform's default is safe.
    """
    if world_size == 1 or num_workers == 0 or sys.platform == "win32":
        return None
    context = _Context()
    context.set_forkserver_preload(["acnet_pl.data.encoded_data_module"])
    return context


def leave_process_group(worker: int) -> None:
    """Ignore signals sent to the process group; the main process shuts workers down."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


class _Worker(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        with _without_main():
            return ForkServerProcess._Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Worker


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module within this context, so that no server or worker executes the program's file again.

    Scripts without an ``if __name__ == "__main__"`` guard rely on that.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
