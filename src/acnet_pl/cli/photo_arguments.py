"""Find the photos that a command line names by files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import nearby

__all__ = ["NamedPhotos", "about_folders", "check_photos", "find_photos", "true_class"]

_SHOWN = 5  # number of names in a message


@dataclass
class NamedPhotos:
    """Photos that a command line names.

    Attributes:
        roots: The photos, each once, in the order in which they were named, those of a folder sorted; and of each the
            folder that was named, or the one that it lies in.
        passed_over: Other files of the folders, by suffix.
    """

    roots: dict[Path, Path] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)


def check_photos(named: Sequence[str]) -> None:
    """Raise a UsageError for a name that is neither a file nor a folder nor a pattern that matches."""
    if not named:
        raise UsageError(
            "no photos are named; give files, folders or patterns after the checkpoint (for the test data of its run "
            "it is `predict --ckpt_path CKPT`)"
        )
    for name in named:
        if not Path(name).exists() and not glob.glob(name, recursive=True):  # noqa: PTH207  (as it was typed)
            raise UsageError(f"{name}: there is no such file or folder{nearby(Path(name))}")


def find_photos(named: Sequence[str]) -> NamedPhotos:
    """List the photos of files, folders (at any depth) and patterns.

    Args:
        named: Names as typed.

    Raises:
        DataError: There is no photo among them.
    """
    from acnet_pl.data.class_folders import SUFFIXES
    from acnet_pl.data.errors import DataError
    from acnet_pl.data.photo_folders import photos_below

    found = NamedPhotos()
    folders: dict[Path, str] = {}
    first: dict[tuple[str, str], Path] = {}

    def once(path: Path) -> Path:
        """Return the first path under which a photo was named; links to its folder may give it many."""
        if path.parent not in folders:
            folders[path.parent] = os.path.realpath(path.parent)
        return first.setdefault((folders[path.parent], path.name), path)

    for name in named:
        given = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
        for path in map(Path, given):
            if path.is_dir():
                below, others = photos_below(path)
                photos = (path / photo for photo in below)
                found.roots.update({photo: path for photo in photos if once(photo) == photo})
                found.passed_over += others
            else:
                found.roots.setdefault(once(path), path.parent)
    if not found.roots:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.passed_over.most_common(5))
        raise DataError(
            f"{', '.join(named)} {'holds' if len(named) == 1 else 'hold'} no photo{f', but {kinds}' if kinds else ''}; "
            f"photos end in {', '.join(SUFFIXES)}"
        )
    return found


def true_class(path: Path, root: Path, class_names: Sequence[str]) -> str | None:
    """Return the name of the innermost folder of a photo that is named after a class, or None.

    Args:
        path: The photo.
        root: The outermost folder that counts.
        class_names: The names.
    """
    known, outermost = {*class_names}, root.absolute()
    for folder in path.absolute().parents:
        if folder.name in known:
            return folder.name
        if folder == outermost:
            break
    return None


def about_folders(
    photos: Sequence[Path], roots: Mapping[Path, Path], class_names: Sequence[str], is_any_named: bool
) -> str | None:
    """Describe the folders of photos that `true_class` knows no class of.

    Args:
        photos: These photos.
        roots: The folder that was named, of each photo.
        class_names: The names of the classes.
        is_any_named: Whether other photos lie in a folder that is named after a class.

    Returns:
        A line for the user; None if there are no such photos, or they lie together in one folder without others.

    Examples:
        >>> about_folders([Path("a/sky/1.png")], {Path("a/sky/1.png"): Path("a")}, ["green", "red"], True)
        '1 photo in other folders: sky'
    """
    folders = Counter(_folder_name(photo.parent, roots[photo]) for photo in photos)
    if is_any_named and folders:
        count = folders.total()
        return f"{count:,} photo{'' if count == 1 else 's'} in other folders: {_few([*folders])}"
    if len(folders) > 1 or any(photo.parent != roots[photo] for photo in photos):
        return f"No folder is named after a class ({_few(class_names)}), so the file has no column `true`"
    return None


def _folder_name(folder: Path, root: Path) -> str:
    """Return a folder's path below the one that was named, or that one itself."""
    return str(root if folder == root else folder.relative_to(root))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
