"""Standard output and error whose reader may go away, as ``head`` does when it has enough."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["outlive_readers", "stream_to"]


class _Pipe(io.FileIO):
    """A file descriptor that leads to nowhere once nobody reads it."""

    def write(self, content: object) -> int:
        try:
            return super().write(content)  # type: ignore[arg-type]
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(content)  # type: ignore[arg-type]


def stream_to(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Open a text stream to a file descriptor that goes on without an error when its reader has gone.

    Args:
        descriptor: Of a pipe or a file; it stays open when the stream is closed.
        like: The stream whose encoding and buffering it takes over.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(descriptor, "w", closefd=False)),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def outlive_readers() -> None:
    """Let a command finish, a training above all, when the program that reads its output ends before it does."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, stream_to(stream.fileno(), stream))
