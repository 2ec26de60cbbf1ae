"""Optional packages that need adapting to work with acnet_pl, one module each."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

__all__ = ["INSTALL", "enable_installed"]

# By the name under which a package is imported: how to install it, and the module that makes it work.
INSTALL = {"pl_bolts": "pip install --no-deps lightning-bolts==0.7.0"}
_INTEGRATIONS = {"pl_bolts": "acnet_pl.integrations.bolts"}


def enable_installed() -> None:
    """Enable the integrations of the packages that are installed, without importing these packages.

    The command line does so before it reads a configuration, where class paths may name them.
    """
    for package, integration in _INTEGRATIONS.items():
        if find_spec(package) is not None:
            import_module(integration)
