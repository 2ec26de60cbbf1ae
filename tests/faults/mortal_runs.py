"""Run command lines of acnet_pl in forked children that are killed at given moments.

The answer is the exit code of the child (-9: killed), its seconds and whether it died inside the function that was
named; its output is appended to ``output.txt`` in the folder. With several processes the child is what torchrun is: it
starts them, and once more where one dies. A death is null or one of

- ``["after", SECONDS]``: by SIGKILL, so long after the start;
- ``["at", FUNCTION, N]``: by SIGKILL, at the N-th call of a function, before it does anything;
- ``["within", FUNCTION, N, SECONDS]``: by SIGKILL, so long after the N-th call of a function began;
- ``["told", FUNCTION, N]``: the N-th call of a function begins with a SIGTERM;
- ``["spoilt", FUNCTION, N]``: it lives, and the N-th call of a function gets infinite images.

With several processes the last one dies or is spoilt, in the first attempt only; all of them are told. ``["measure",
FUNCTION, ...]`` lets the run live and answers with the median seconds of a call of each.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import select
import signal
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.process_server import be_rank, draw_nothing, fork

from acnet_pl.cli import main

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]
Report = Callable[[bytes], Any]


def wrap(function: str, wrapper: Wrapper) -> None:
    """Put something around ``module:name.name``."""
    module, _, path = function.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrapper(original)))


def prepare(death: list[Any] | None, report: Report) -> None:
    """Have this process die, or be measured."""
    if death is None or death[0] == "after":
        return
    kind, function, *numbers = death
    if kind == "measure":
        for name in (function, *numbers):
            wrap(name, functools.partial(measured, name=name, report=report))
        return
    last, first_attempt = int(os.environ.get("WORLD_SIZE", 1)) - 1, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if kind == "told" or (int(os.environ.get("RANK", 0)) == last and first_attempt == "0"):
        wrap(function, functools.partial(deadly, kind=kind, n=numbers[0], report=report))


def measured(original: Callable[..., Any], name: str, report: Report) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            report(f"{name} {time.perf_counter() - started}\n".encode())

    return call


def deadly(original: Callable[..., Any], kind: str, n: int, report: Report) -> Callable[..., Any]:
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != n:
            return original(*args, **kwargs)
        if kind == "spoilt":
            args[1][0].fill_(math.inf)
        elif kind != "within":
            os.kill(os.getpid(), signal.SIGKILL if kind == "at" else signal.SIGTERM)
        report(b"begun\n")
        try:
            return original(*args, **kwargs)
        finally:
            report(b"ended\n")

    return call


def live(folder: Path, args: list[str], death: list[Any] | None, processes: int, pipe: int) -> int:
    os.environ["WANDB_MODE"] = "disabled"
    sys.path.insert(0, str(folder))
    draw_nothing()
    if processes == 1:
        prepare(death, functools.partial(os.write, pipe))
        return main(args)
    launch(args, death, processes)
    return 0


def launch(args: list[str], death: list[Any] | None, processes: int) -> None:
    """What ``torchrun --standalone --max-restarts=1`` does, with processes that are forked and need no imports."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
        start_method="fork",
    )

    def work() -> None:
        be_rank(int(os.environ["RANK"]))
        prepare(death, len)
        if code := main(args):
            raise SystemExit(code)

    elastic_launch(config, work)()


def attempt(folder: str, args: list[str], death: list[Any] | None, processes: int) -> dict[str, Any]:
    """Run a command line in a folder until it ends, or dies."""
    reader, writer = os.pipe()

    def work() -> int:
        os.close(reader)
        return live(Path(folder), args, death, processes, writer)

    started = time.perf_counter()
    child = fork(work, Path(folder), Path(folder, "output.txt"))
    os.close(writer)
    report = b""
    if death is not None and death[0] == "after":
        select.select([reader], [], [], death[1])  # until then, or until it has ended
        os.kill(child, signal.SIGKILL)
    elif death is not None and death[0] == "within" and (report := os.read(reader, 100)):
        time.sleep(death[3])
        os.kill(child, signal.SIGKILL)
    while more := os.read(reader, 1 << 16):
        report += more
    os.close(reader)
    _, status = os.waitpid(child, 0)
    code, seconds = os.waitstatus_to_exitcode(status), time.perf_counter() - started
    answer: dict[str, Any] = {"code": code, "seconds": seconds, "inside": report == b"begun\n"}
    if death is not None and death[0] == "measure":
        answer["measured"] = medians(report.decode())
    return answer


def medians(report: str) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for line in report.splitlines():
        name, value = line.split(" ")
        seconds.setdefault(name, []).append(float(value))
    return {name: statistics.median(values) for name, values in seconds.items()}
