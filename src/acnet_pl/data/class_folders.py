"""List folders of class folders, as ImageNet is distributed, and read their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acnet_pl.data.class_homes import ClassHomes
from acnet_pl.data.errors import DataError
from acnet_pl.regular_files import check_regular

__all__ = ["SUFFIXES", "ClassFolders", "FileSplit"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """``root/{train,val}/<class>/*``, numbered as in torchvision's ImageFolder, without hidden entries.

    Attributes:
        root: The folder that holds the splits.
    """

    root: Path

    @property
    def class_names(self) -> list[str]:
        """Return the names of the training class folders, sorted; [] without such a folder."""
        return self._names("train") if (self.root / "train").is_dir() else []

    def split(self, name: str) -> FileSplit:
        """List the files of "train" or "val".

        Raises:
            DataError: A split is missing, the two have other classes, a class has no image, or a class folder is a link
                to another's.
        """
        for each in ("train", "val"):
            if not (self.root / each).is_dir():
                raise DataError(
                    f"{self.root / each} is missing; `root` (={self.root}) must hold train/<class>/* and "
                    "val/<class>/*, or what `python -m acnet_pl data optimize` makes of them"
                )
        names = self._names("train")
        if odd := sorted(set(names) ^ set(self._names("val"))):
            side = "train" if odd[0] in names else "val"
            others = f" and {len(odd) - 1} other classes are in one split alone" if len(odd) > 1 else ""
            raise DataError(
                f"{self.root}: train/ and val/ must have the same class folders; {odd[0]!r} is in {side}/ alone{others}"
            )
        if not names:
            raise DataError(f"{self.root / name} has no class folder; images belong in {name}/<class>/")
        homes = ClassHomes({self.root / name / each: each for each in names})
        for each in names:
            homes.check(self.root / name / each, each)
        files = [_image_names(self.root / name / each) for each in names]
        sizes = [len(found) for found in files]
        if 0 in sizes:
            empty = self.root / name / names[sizes.index(0)]
            raise DataError(
                f"{empty} holds no image ({', '.join(SUFFIXES)}); {sizes.count(0)} of {len(sizes)} classes are empty. "
                "Put the images there, or remove the class from both splits"
            )
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        paths = [f"{each}/{file}" for each, found in zip(names, files, strict=True) for file in found]
        return FileSplit(self.root / name, paths, labels)

    def _names(self, split: str) -> list[str]:
        with os.scandir(self.root / split) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


class FileSplit:
    """Image files of one split.

    Names are packed into one array: more than a million strings would be copied into every decoding process, because
    counting references writes to them.

    Args:
        folder: Folder that the names are relative to.
        names: Names of the files.
        labels: Label of each file, int64 ``(N,)``.
    """

    def __init__(self, folder: Path, names: Sequence[str], labels: Tensor) -> None:
        self.folder = folder
        self.labels = labels
        encoded = [os.fsencode(name) for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        start = int(self._ends[index - 1]) if index else 0
        return self.folder / os.fsdecode(self._names[start : int(self._ends[index])].tobytes())

    def describe(self, index: int) -> str:
        """Return the image's name for error messages."""
        return str(self.path(index))

    def read(self, index: int) -> tuple[Tensor, int]:
        """Return the bytes of an image's file, uint8 ``(bytes,)``, empty if it cannot be opened, and its label."""
        label = int(self.labels[index])
        try:
            path = self.path(index)
            check_regular(path)
            return torch.from_numpy(np.fromfile(path, np.uint8)), label
        except OSError:
            return torch.empty(0, dtype=torch.uint8), label


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
        )
