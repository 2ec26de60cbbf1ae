"""After a restart, what the dead left with the launcher is not taken for the living."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from acnet_pl.cli.torchrun import _store_that_answers, fresh_store

HERE = "127.0.0.1"


def test_processes_meet_in_the_store_of_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, stranger = (TCPStore(HERE, 0, is_master=True, wait_for_workers=False) for _ in range(2))
    stranger.set("acnet_pl", "of another job")
    with socket.create_server((HERE, 0)) as server:
        closed = server.getsockname()[1]
    values = {"MASTER_ADDR": HERE, "MASTER_PORT": str(launcher.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in (values | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor() as pool:
        for port in (closed, stranger.port):
            launcher.set("acnet_pl", f"{port} of-the-dead")
            second = pool.submit(_store_that_answers, launcher, HERE)
            time.sleep(0.3)
            assert not second.done()
            monkeypatch.setenv("MASTER_PORT", str(launcher.port))
            monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
            first = fresh_store()
            assert first is not None
            assert os.environ["MASTER_PORT"] == str(first.port) != str(launcher.port)
            first.set("said", "by the first")
            assert second.result(timeout=60).get("said") == b"by the first"
    assert fresh_store() is None  # it is in place


def test_without_torchrun_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    before = dict(os.environ)
    assert fresh_store() is None
    assert dict(os.environ) == before
