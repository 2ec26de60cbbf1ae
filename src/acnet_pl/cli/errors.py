"""Show a user's mistake as one readable message with an exit code; show bugs with their traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from acnet_pl.cli.terminal_text import printable
from acnet_pl.config.errors import UsageError
from acnet_pl.config.messages import RUNNING, show_mistake

__all__ = ["Outcome", "readable_errors"]


# Exceptions that a user's mistake may raise, besides those of libraries.
_USERS: tuple[type[Exception], ...] = (ValueError, OSError, ModuleNotFoundError, RuntimeError, MemoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Outcome:
    """Exit code of a command."""

    code: int = 0


@contextmanager
def readable_errors(command: str) -> Iterator[Outcome]:
    """Print an error that the user can fix as one message, and keep its exit code.

    ``ACNET_PL_DEBUG=1`` lets it through with its traceback.
    """
    outcome = Outcome()
    running = RUNNING.set(command)
    try:
        yield outcome
    except SystemExit as stop:
        outcome.code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except UsageError as mistake:
        show_mistake(str(mistake), command)
        outcome.code = 2
    except KeyboardInterrupt as interrupt:
        after = f"; {interrupt}" if str(interrupt) else ""
        print(f"acnet_pl {command}: interrupted{after}", file=sys.stderr)
        outcome.code = 130
    except (*_USERS, *_of_libraries()) as error:
        message = _message(error)
        if message is None or os.environ.get("ACNET_PL_DEBUG"):
            raise
        print(f"acnet_pl {command}: error: {printable(message)}", file=sys.stderr)
        outcome.code = 1
    finally:
        RUNNING.reset(running)


def _of_libraries() -> tuple[type[Exception], ...]:
    """Return the exceptions of Lightning and W&B for mistakes of their users, where these have been imported."""
    names = (("lightning_fabric.utilities.exceptions", "MisconfigurationException"), ("wandb.errors", "Error"))
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)


def _message(error: Exception) -> str | None:
    """Return the message for the user, or None if the error does not look like the user's mistake."""
    text = str(error).strip()
    if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in text:
        details = [line.strip() for line in text.splitlines()[1:]]
        shown = "\n  ".join(line if len(line) < 160 else line[:157] + "..." for line in details[:4])
        return (
            "the checkpoint is of another architecture than the configured model: give the same --model and "
            f"--data options as the run that wrote it had (its folder holds config.yaml)\n  {shown}"
        )
    if type(error).__module__.startswith("wandb."):
        return f"Weights & Biases: {text}; without an account train with --wandb.mode offline, the default, or disabled"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        size = re.search(r"allocate (\d+ bytes|[\d.]+ \wiB)", text)
        return (
            f"this machine has not enough memory{f' ({size[1]} more were asked for)' if size else ''}; give smaller "
            "images or a smaller batch"
        )
    if type(error) is RuntimeError and not text.startswith("acnet_pl"):
        return None
    if "Union subtypes" in text:  # the parser's text around a class's own error
        said = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip().startswith("- ")]
        return "\n  ".join(line for line in said if not line.startswith("Expected a")) or text
    if isinstance(error, OSError) and error.errno in _FULL and "--resume" not in text:
        where = error.filename or "a file"
        return f"{error.strerror}: {where} could not be written; free some space, and a run goes on with --resume auto"
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    return text
