"""Standard output and error that raise no error when their reader, such as ``head``, has ended."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["outlive_readers", "stream_to"]


class _Pipe(io.FileIO):
    """File descriptor that is redirected to the null device once its reader has ended."""

    def write(self, content: object) -> int:
        try:
            return super().write(content)  # type: ignore[arg-type]
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(content)  # type: ignore[arg-type]


class _Unbuffered(io.BufferedWriter):
    """Buffer that is flushed after every write, so that the last output of a killed process is not lost."""

    def write(self, content: Buffer) -> int:
        written = super().write(content)
        self.flush()
        return written


def stream_to(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Open a text stream to a file descriptor that raises no error when its reader has ended.

    Args:
        descriptor: File descriptor of a pipe or a file; it stays open when the stream is closed.
        like: The stream whose encoding and buffering it takes over.
    """
    buffered = _Unbuffered if like.write_through else io.BufferedWriter
    return io.TextIOWrapper(
        buffered(_Pipe(descriptor, "w", closefd=False)),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def outlive_readers() -> None:
    """Let a command finish even if the program that reads its output ends first."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, stream_to(stream.fileno(), stream))
