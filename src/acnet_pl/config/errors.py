"""A mistake on the command line or in a configuration."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(ValueError):
    """A mistake on the command line or in a configuration, found before anything is run."""
