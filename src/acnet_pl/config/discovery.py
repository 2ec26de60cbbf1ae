"""Find what the command line offers by name: modules in folders of this package, and entry points of other packages.

Nothing is imported. Names come from file names and from the metadata of installed packages.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["installed", "modules"]

_ROOT = Path(__file__).parents[1]


@cache
def modules(folder: str) -> dict[str, str]:
    """Return the public modules of a folder of this package, as ``{name: dotted path}``.

    Args:
        folder: Dotted path below ``acnet_pl``, such as ``cli.commands``.
    """
    names = sorted(path.stem for path in _ROOT.joinpath(*folder.split(".")).glob("*.py") if path.stem[0] != "_")
    return {name: f"acnet_pl.{folder}.{name}" for name in names}


def installed(kind: str) -> dict[str, str]:
    """Return what other packages offer by the entry points ``acnet_pl.<kind>``, as ``{name: dotted path}``.

    Args:
        kind: ``commands``, ``callbacks``, ``data``, ``backbones``, ``blocks``, ``grids`` or ``analyses``.
    """
    return {point.name: point.value.replace(":", ".") for point in _entry_points().select(group=f"acnet_pl.{kind}")}


# Reads the metadata of all installed packages, once.
_entry_points = cache(entry_points)
