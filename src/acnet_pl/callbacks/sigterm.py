"""Handle SIGTERM from a scheduler or torchrun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch.distributed as dist

__all__ = ["EXIT_TERMINATED", "exit_on_sigterm", "exit_terminated", "on_sigterm"]

EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code of a run that was stopped by SIGTERM, as shells have it: 143."""


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """End the process with `EXIT_TERMINATED` on SIGTERM within this context."""
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    on_sigterm(exit_terminated)
    try:
        yield
    except SystemExit as stop:
        if stop.code == EXIT_TERMINATED:
            on_sigterm(before := signal.SIG_IGN)  # torchrun sends another when the first of its processes has ended
            if dist.is_available() and dist.is_initialized():
                dist.destroy_process_group()  # Gloo's threads would abort the interpreter at its end
        raise
    finally:
        on_sigterm(before)


def exit_terminated(*_: Any) -> NoReturn:
    """Exit on a signal."""
    raise SystemExit(EXIT_TERMINATED)


def on_sigterm(handler: Any) -> None:
    """Set the handler of SIGTERM, in the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
