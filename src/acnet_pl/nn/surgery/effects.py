"""Keep the other paths of a network's code, which nobody called, from acting outside the network."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

import torch

__all__ = ["ActsOutsideError", "no_effects"]

_ACTS = ("os.", "shutil.", "subprocess.", "socket.", "tempfile.", "pty.", "sqlite3.", "urllib.", "webbrowser.")
_ONLY_READS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr", "socket.gethostname"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC

_guarded: set[int] = set()  # threads whose code may only compute now


class ActsOutsideError(Exception):
    """Code on another path would write a file, start a process, wait for someone, or the like."""


@contextmanager
def no_effects() -> Iterator[None]:
    """Raise an error where code would write files, start processes, connect, ask the user, or end the program.

    What it sets in PyTorch (gradients on or off, dtype, determinism) is restored. Other threads are not concerned.

    Raises:
        ActsOutsideError: The code would do so; it is stopped before it does.
        RuntimeError: The code would end the program.
    """
    _install()
    thread = threading.get_ident()
    outermost = thread not in _guarded
    settings = _settings()
    _guarded.add(thread)
    try:
        yield
    except SystemExit as end:
        raise RuntimeError("this path ends the program") from end
    finally:
        if outermost:
            _guarded.discard(thread)
        _restore(settings)


@cache
def _install() -> None:
    sys.addaudithook(_refuse)  # once: Python removes no such hook, and this one does nothing outside the context


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if _guarded and threading.get_ident() in _guarded and _acts(event, args) and not _is_importing():
        raise ActsOutsideError(f"{event}{args[:1]} on a path that is only traced")


def _acts(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        path, _, flags = args
        written = isinstance(flags, int) and bool(flags & _WRITES)
        return written and path != os.devnull
    return event in ("builtins.breakpoint", "builtins.input") or (event.startswith(_ACTS) and event not in _ONLY_READS)


def _is_importing() -> bool:
    """Return True within an import, which would leave a half-made Python module behind if it were stopped."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _settings() -> tuple[Any, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    return torch.is_grad_enabled(), torch.get_default_dtype(), deterministic, warn_only, precision


def _restore(settings: tuple[Any, ...]) -> None:
    if settings == _settings():
        return
    gradients, dtype, deterministic, warn_only, precision = settings
    torch.set_grad_enabled(gradients)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.set_float32_matmul_precision(precision)
