"""Support restarts under torchrun, and several machines."""

from __future__ import annotations

import os
import socket
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_only

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

__all__ = ["fresh_store", "tell_nodes_apart"]

_KEY = "acnet_pl"
_PATIENCE = timedelta(minutes=10)


def fresh_store() -> TCPStore | None:
    """Connect the processes of a restart by a new store instead of the launcher's.

    The launcher's store outlives its processes. After a restart it still has the addresses of those that are gone, and
    a process that reads one of them instead of waiting for its new neighbour's cannot connect
    (https://github.com/pytorch/pytorch/issues/135712). So the first process opens a store of its own, leaves its port
    with the launcher, and all put it where ``init_process_group`` looks. The launchers of several machines do not count
    restarts alike, so a port counts as current only if its store answers.

    Returns:
        The store, which must live as long as the process, or None where no launcher keeps one.

    Raises:
        RuntimeError: The first process cannot be reached.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    launcher = _store(address, port, is_master=False, timeout=_PATIENCE)
    if int(os.environ["RANK"]) == 0:
        store, name = _store(address, 0, is_master=True, multi_tenant=True), uuid.uuid4().hex
        store.set(_KEY, name)
        launcher.set(_KEY, f"{store.port} {name}")
    else:
        store = _store_that_answers(launcher, address)
    os.environ.update(MASTER_PORT=str(store.port), TORCHELASTIC_USE_AGENT_STORE="False")
    return store


def _store_that_answers(launcher: TCPStore, address: str) -> TCPStore:
    from torch.distributed import DistError

    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        port, name = launcher.get(_KEY).decode().split()
        try:
            socket.create_connection((address, int(port)), timeout=2).close()  # the store would warn of a failure
            store = _store(address, int(port), is_master=False, timeout=timedelta(seconds=2))
            if store.get(_KEY).decode() == name:
                return store
        except (OSError, DistError):  # the port of a process that has ended, or of another program
            time.sleep(0.1)
    raise RuntimeError(f"acnet_pl: the first process cannot be reached at {address}; is a firewall in the way?")


def _store(address: str, port: int, **options: Any) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # which some builds do without

    return TCPStore(address, port, wait_for_workers=False, **options)


def tell_nodes_apart() -> None:
    """Give processes of other machines a nonzero rank, so that they write nothing before the trainer exists.

    Lightning takes a process for the first one until the trainer exists, unless torchrun or SLURM gave it a rank.
    """
    node = int(os.environ.get("NODE_RANK") or 0)
    if node and not getattr(rank_zero_only, "rank", 0):
        vars(rank_zero_only)["rank"] = node
