"""ClassHomes: refuse links by which photos of one class are listed under another too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from acnet_pl.data.errors import DataError

__all__ = ["ClassHomes"]


class ClassHomes:
    """The folders that class folders really are.

    Args:
        folders: The class of each class folder.
    """

    def __init__(self, folders: Mapping[Path, str]) -> None:
        links_first = sorted(folders, key=lambda folder: not folder.is_symlink())
        self._classes = {os.path.realpath(folder): folders[folder] for folder in links_first}

    def check(self, where: str | Path, name: str) -> None:
        """Raise an error if a folder that is listed for a class belongs to another one.

        Args:
            where: A class folder, or one below it, as links lead there.
            name: The class.

        Raises:
            DataError: It is the folder of another class, lies in it, or holds it.
        """
        real = Path(os.path.realpath(where))
        places = (str(place) for place in (real, *real.parents))
        other = next((self._classes[place] for place in places if place in self._classes), None)
        if other is None:
            inside = f"{str(real).rstrip(os.sep)}{os.sep}"
            holds = (each for home, each in self._classes.items() if each != name and home.startswith(inside))
            other = next(holds, None)
        if other is not None and other != name:
            raise DataError(
                f"{where}, of class {name!r}, leads to {real}, where photos of class {other!r} are: they would have "
                "both labels; remove the link"
            )
