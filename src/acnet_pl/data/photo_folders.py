"""PhotoFolders: find the splits and classes of your own photos, and choose photos for validation."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_warn

from acnet_pl.data.class_folders import SUFFIXES, FileSplit
from acnet_pl.data.class_homes import ClassHomes
from acnet_pl.data.errors import DataError

__all__ = ["PhotoFolders", "photos_below"]

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NOT_SAID = frozenset({"thumbs.db", "desktop.ini"})  # files that operating systems create in folders
_SHOWN = 12  # number of names in a message


def photos_below(folder: Path, check: Callable[[str], None] | None = None) -> tuple[list[str], Counter[str]]:
    """List the image files in a folder at any depth, following links and skipping hidden entries.

    What links lead to is listed last, so that a photo of the folder itself has the path without links.

    Args:
        folder: An existing folder.
        check: Called with each folder that is listed.

    Returns:
        Sorted paths relative to the folder, and the number of other files by suffix.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    waiting = [str(folder)]
    for where, folders, files in _walked(waiting):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:  # a link to a folder already listed
            continue
        seen.add(real)
        if check is not None:
            check(where)
        paths = (os.path.join(where, name) for name in folders)  # noqa: PTH118
        waiting += [path for path in paths if os.path.islink(path)]  # noqa: PTH114
        for name in files:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  (a name, and fast)
            if name.startswith(".") or name.lower() in _NOT_SAID:
                continue
            path = os.path.join(where, name)  # noqa: PTH118
            if suffix in SUFFIXES and (os.path.isfile(path) or os.path.islink(path)):  # noqa: PTH113, PTH114
                found.append(os.path.relpath(path, folder))
            elif suffix in SUFFIXES:
                others["pipe or device"] += 1  # reading it might never end
            else:
                others[suffix or "no suffix"] += 1
    return sorted(found), others


def _walked(waiting: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through folders, without following links, as long as there are some."""
    while waiting:
        yield from os.walk(waiting.pop(0))


@dataclass
class PhotoFolders:
    """Photos in class folders, ``root/<class>/**``, or in folders of splits, ``root/{train,val,test}/<class>/**``.

    Labels follow the sorted names of the classes. Photos may lie at any depth in a class folder.

    If there is no folder for validation, some training photos of each class are used. Every photo has a hash of its
    name, a number from 0 to 1; photos with a hash below ``val_size`` validate. So the same photos validate on every
    machine and with every seed of a run, and adding photos does not change the choice for the others. The share is
    exact only on average: of ten photos, one or four may validate for ``val_size`` 0.2. A class with two or more photos
    has at least one for validation and one for training. If no hash is below ``val_size``, the photo with the lowest
    hash validates; it trains once a photo with a lower hash is added. If all are below, the photo with the highest hash
    trains, with a warning, because it may validate once photos are added.

    Args:
        root: The folder.
        val_size: Share of each class for validation if there is no folder for it. 1 uses all photos, for evaluation.
        split_seed: Seed of the hashes; other seeds choose other photos.
        classes: Names of the classes in the order of their labels. Class folders with other names are an error; folders
            may be missing. None uses the names of the folders.

    Attributes:
        parts: The existing folders by split; the root is "train" if it contains the class folders itself.

    Raises:
        DataError: The folder does not exist, has no class folders, or has some that are not in ``classes``.
    """

    root: Path
    val_size: float = 0.2
    split_seed: int = 0
    classes: list[str] | None = None
    _warned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"`root` (={self.root}) {what}; give a folder with one folder of photos for each class")
        self.parts = self._find_parts()
        found = {part: _folders(folder) for part, folder in self.parts.items()}
        names = found.get("train") or sorted(set().union(*found.values()))
        self.class_names = list(self.classes) if self.classes else names
        for part, folders in found.items():
            if odd := sorted({*folders} - {*self.class_names}):
                known = "`classes`" if self.classes else f"{self.parts['train']}"
                raise DataError(
                    f"{self.parts[part]} has class folders that are not in {known}: {_listed(odd)}; the classes are "
                    f"{_listed(self.class_names)}. Rename or remove the folders"
                )
        if len(self.class_names) < 2:
            self._refuse_few()

    @property
    def has_test(self) -> bool:
        """Return True if there is a folder of test photos."""
        return "test" in self.parts

    def split(self, name: str) -> FileSplit:
        """List the photos of "train", "val" or "test".

        Raises:
            DataError: The split has no photos, a class has none to train on, or a link leads from one class to another.
        """
        if name in self.parts and (name != "train" or "val" in self.parts):
            return self._list(name, self.parts[name], None)
        if "train" not in self.parts:
            raise DataError(f"{self.root} has no folder {name}/, and no train/ to take photos from")
        return self._list(name, self.parts["train"], name == "val")

    def _list(self, name: str, folder: Path, validates: bool | None) -> FileSplit:
        """List a folder's photos: all if ``validates`` is None, else only those that validate, or only the others."""
        names, labels = [], []
        turned: list[str] = []  # photos that train although their hash chooses validation
        unseen: list[str] = []  # classes without a photo for validation
        others: Counter[str] = Counter()
        places = {part / each: each for part in self.parts.values() for each in self.class_names}
        homes = ClassHomes({place: each for place, each in places.items() if place.is_dir()})
        for label, each in enumerate(self.class_names):
            check = partial(homes.check, name=each)
            files, passed_over = photos_below(folder / each, check) if (folder / each).is_dir() else ([], Counter())
            others += passed_over
            if not files and name == "train":
                only = f" but {_counted(passed_over)}" if passed_over else ""
                raise DataError(
                    f"{folder / each} holds no photo{only}; photos end in {', '.join(SUFFIXES)}. Put some there, or "
                    "remove the folder"
                )
            chosen = files
            if validates is not None:
                chosen, kept = self._share(each, files, validates)
                if kept and not validates:
                    turned.append(f"{each}/{kept}")
                if validates and files and not chosen:
                    unseen.append(each)
            names += [os.path.join(each, file) for file in chosen]  # noqa: PTH118  (a name of many)
            labels += [label] * len(chosen)
        if not self._warned and others:
            self._warned = True
            rank_zero_warn(
                f"{folder}: {_counted(others)} {'is' if others.total() == 1 else 'are'} ignored; photos end in "
                f"{', '.join(SUFFIXES)}"
            )
        if not names:
            raise DataError(
                f"{folder} leaves no photos for {name} (val_size {self.val_size:g}); a class needs two photos, one to "
                "train on and one to validate, and val_size must be more than 0, and less than 1 for training"
            )
        if turned:
            several = len(turned) > 1
            rank_zero_warn(
                f"{len(turned)} class{'es have' if several else ' has'} so few photos that the hashes of all choose "
                f"validation; {_listed(turned)} {'are' if several else 'is'} used for training instead, and may "
                "validate once you add photos. Before you add some, make folders train/ and val/ yourself, or choose "
                "another --data.split_seed"
            )
        if unseen:
            rank_zero_warn(
                f"no photo of class {_listed(unseen)} validates, so the accuracies say nothing of it; a class "
                "needs two photos, one to train on and one to validate"
            )
        return FileSplit(folder, names, torch.tensor(labels))

    def _share(self, name: str, files: list[str], validates: bool) -> tuple[list[str], str]:
        """Return the photos of a class that validate, or the others, by the hash of each photo alone.

        The second value is the photo that trains because the hashes of all choose validation, or "".
        """
        if not 0 < self.val_size < 1:
            return files if validates == bool(self.val_size) else [], ""
        kept = ""
        hashes = {file: _hash(f"{self.split_seed}/{name}/{file}") for file in files}
        chosen = {file for file in files if hashes[file] < self.val_size}
        if files and len(chosen) == len(files):  # at least one photo must train
            kept = max(files, key=hashes.__getitem__)
            chosen.remove(kept)
        elif len(files) > 1 and not chosen:
            chosen.add(min(files, key=hashes.__getitem__))
        return [file for file in files if (file in chosen) == validates], kept

    def _find_parts(self) -> dict[str, Path]:
        """Return the folders by split; only "train", the root itself, if that contains the class folders."""
        folders = _folders(self.root)
        if not folders:
            raise DataError(
                f"{self.root} has no folders; photos belong in one folder for each class, {self.root}/<class>/*"
            )
        nested = {name for name in folders if name.lower() in _SPLITS and _folders(self.root / name)}
        others = sorted({*folders} - nested)
        if nested and others:
            raise DataError(
                f"{self.root} mixes folders of splits ({_listed(sorted(nested))}) with class folders "
                f"({_listed(others)}); give as `root` a folder with only splits, or with only classes"
            )
        if not nested:
            loose = sum(entry.is_file() and entry.suffix.lower() in SUFFIXES for entry in self.root.iterdir())
            if loose:
                rank_zero_warn(f"{self.root}: ignored {loose} photos outside of class folders")
            return {"train": self.root}
        parts: dict[str, Path] = {}
        for name in sorted(nested):
            if (part := _SPLITS[name.lower()]) in parts:
                raise DataError(f"{self.root} has both {parts[part].name} and {name} for one split; keep one of them")
            parts[part] = self.root / name
        return parts

    def _refuse_few(self) -> None:
        (only,) = self.class_names
        folder = self.parts.get("train", self.root) / only
        inner = _folders(folder) if folder.is_dir() else []
        way_out = f"; its folders {_listed(inner)} look like classes: give {folder}" if len(inner) > 1 else ""
        raise DataError(
            f"{folder.parent} has only one class folder, {only!r}, but a classifier needs at least two{way_out}"
        )


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _hash(text: str) -> float:
    """Return a number from 0 to below 1 that depends only on the text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _counted(others: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return f"{others.total():,} other file{'' if others.total() == 1 else 's'} ({kinds})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
