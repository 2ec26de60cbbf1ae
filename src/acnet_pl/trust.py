"""Packages whose classes may be named by files of runs and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["TRUSTED", "is_named", "is_standard", "is_trusted", "trusting"]

TRUSTED = ("acnet_pl", "torch", "torchvision", "timm", "pytorch_lightning")
"""The packages that such files may always name."""

# The packages that the user's command line names; None in library use, where what the caller has imported is trusted.
_NAMED: ContextVar[frozenset[str] | None] = ContextVar("acnet_pl_trusted_packages", default=None)


@contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Allow files to name classes of `TRUSTED` and of these packages alone, within this context.

    Args:
        packages: Names of top-level packages.
    """
    token = _NAMED.set(frozenset(packages))
    try:
        yield
    finally:
        _NAMED.reset(token)


def is_trusted(module: str) -> bool:
    """Return True for modules of `TRUSTED` packages and of packages that the user named or the caller imported.

    Examples:
        >>> is_trusted("torch.optim"), is_trusted("antigravity")
        (True, False)
    """
    package, named = module.partition(".")[0], _NAMED.get()
    return package in TRUSTED or (module in sys.modules if named is None else package in named)


def is_named(package: str) -> bool:
    """Return True for a top-level package that the user's command line names."""
    return package in (_NAMED.get() or ())


def is_standard(module: str) -> bool:
    """Return True for modules of Python's standard library, which has no networks, data or callbacks.

    Examples:
        >>> is_standard("os.path"), is_standard("posix"), is_standard("torch")
        (True, True, False)
    """
    return module.partition(".")[0] in sys.stdlib_module_names
