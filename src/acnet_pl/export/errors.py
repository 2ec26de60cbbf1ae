"""The error of an export."""

from __future__ import annotations

__all__ = ["ExportError"]


class ExportError(ValueError):
    """A network cannot be exported, or its file does not compute what it computes; there is no new file."""
