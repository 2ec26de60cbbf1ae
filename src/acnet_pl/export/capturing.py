"""Run torch's exporters quietly, with a short error where the network's code depends on the values of its data."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from textwrap import shorten
from traceback import extract_tb

from acnet_pl.export.errors import ExportError

__all__ = ["capturing", "quiet"]

_LOGGERS = ("torch.export._trace", "torch.fx.experimental.symbolic_shapes")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' warnings about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def capturing() -> Iterator[None]:
    """Silence torch.export, which prints each graph that it cannot finish, and shorten its error for branches on data.

    Raises:
        ExportError: The code takes a branch, or repeats a loop, by the values of tensors.
    """
    said = io.StringIO()
    try:
        with quiet(), redirect_stderr(said), _logged_to(said):
            yield
    except Exception as error:
        if (cause := _dependence_on_data(error)) is None:
            sys.stderr.write(said.getvalue())
            raise
        raise ExportError(
            f"the network's code depends on the values of its data{_place(cause)}, which no exported file can do; "
            "write the fused weights with save_fused, which load_fused(file, into=network) reads, or compute both "
            "branches and choose with torch.where"
        ) from cause


@contextmanager
def _logged_to(said: io.StringIO) -> Iterator[None]:
    """Write the messages of torch.export's loggers to a text instead of to their handlers, which keep their streams."""

    def write(record: logging.LogRecord) -> bool:
        said.write(f"{record.getMessage()}\n")
        return False

    with ExitStack() as stack:
        for logger in map(logging.getLogger, _LOGGERS):
            logger.addFilter(write)
            stack.callback(logger.removeFilter, write)
        yield


def _dependence_on_data(error: BaseException | None) -> BaseException | None:
    """Return the error in a chain that torch.export raises where code asks for the value of a tensor, or None."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    while error is not None and not isinstance(error, GuardOnDataDependentSymNode):
        error = error.__cause__ or error.__context__
    return error


def _place(error: BaseException) -> str:
    """Return the innermost line of code that is neither torch's nor ours, as text for a message."""
    packages = [sys.modules[name].__file__ for name in ("torch", "sympy") if name in sys.modules]
    folders = [Path(__file__).parents[1], *(Path(file).parent for file in packages if file)]
    for frame in reversed(extract_tb(error.__traceback__)):
        if frame.line and not any(Path(frame.filename).is_relative_to(folder) for folder in folders):
            return f" (line {frame.lineno} of {frame.filename}: `{shorten(frame.line, 80)}`)"
    return ""
