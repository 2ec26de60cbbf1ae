"""Run command lines of acnet_pl in forked children that are killed at given moments.

Everything is imported once. Each line of the standard input is a JSON request ``{"folder": ..., "args": [...], "death":
...}``, answered by a line with the exit code of the child (-9: killed) and its seconds; its output is appended to
``output.txt`` in the folder. A death is ``["after", SECONDS]``, ``["at", FUNCTION, N]`` (at the N-th call of a
function), by SIGKILL in any case; or null.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from acnet_pl.cli import main


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(function: str, n: int) -> None:
    """Have the n-th call of ``module:name.name`` kill this process, before it does anything."""
    module, _, path = function.partition(":")
    *parents, name = path.split(".")
    owner = functools.reduce(getattr, parents, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return die() if calls == n else original(*args, **kwargs)

    setattr(owner, name, deadly)


def live(folder: Path, args: list[str], death: list[Any] | None) -> None:
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    if death is not None and death[0] == "at":
        die_at(death[1], death[2])
    code = 99
    try:
        code = main(args)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def attempt(folder: str, args: list[str], death: list[Any] | None) -> dict[str, Any]:
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        live(Path(folder), args, death)
    status = None
    while status is None and death is not None and death[0] == "after":
        if time.perf_counter() - started > death[1]:
            os.kill(child, signal.SIGKILL)
            break
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        time.sleep(0.002)
    if status is None:
        _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(attempt(**json.loads(line))), flush=True)
