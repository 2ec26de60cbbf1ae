"""Folders of class folders, as ImageNet is distributed: what is in them, and the bytes of each file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acnet_pl.data.errors import DataError

__all__ = ["SUFFIXES", "ClassFolders", "FolderSplit"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """``root/{train,val}/<class>/*``, numbered as torchvision's ImageFolder numbers them. Hidden entries are left out.

    Attributes:
        root: The folder that holds the splits.
    """

    root: Path

    @property
    def class_names(self) -> list[str]:
        """The names of the training class folders, sorted; none where there is no such folder."""
        return self._names("train") if (self.root / "train").is_dir() else []

    def split(self, name: str) -> FolderSplit:
        """List the files of "train" or "val".

        Raises:
            DataError: A split is missing, the two have other classes, or a class has no image.
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
        return FolderSplit(self.root / name, names)

    def _names(self, split: str) -> list[str]:
        with os.scandir(self.root / split) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


class FolderSplit:
    """The image files of one split.

    Names are packed into one array: more than a million strings would be copied into every decoding process, because
    counting references writes to them.

    Args:
        folder: The folder of the split.
        class_names: Its class folders, in the order of the labels.

    Raises:
        DataError: A class has no image.
    """

    def __init__(self, folder: Path, class_names: list[str]) -> None:
        self.folder = folder
        self.class_names = class_names
        files = [_image_names(folder / name) for name in class_names]
        sizes = [len(names) for names in files]
        if 0 in sizes:
            empty = folder / class_names[sizes.index(0)]
            raise DataError(
                f"{empty} holds no image ({', '.join(SUFFIXES)}); {sizes.count(0)} of {len(sizes)} classes are empty. "
                "Put the images there, or remove the class from both splits"
            )
        self.labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        encoded = [os.fsencode(name) for names in files for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded])

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """The file of an image."""
        start = int(self._ends[index - 1]) if index else 0
        name = os.fsdecode(self._names[start : int(self._ends[index])].tobytes())
        return self.folder / self.class_names[int(self.labels[index])] / name

    def describe(self, index: int) -> str:
        """What a message calls the image."""
        return str(self.path(index))

    def read(self, index: int) -> tuple[Tensor, int]:
        """The content of an image's file, uint8 ``(bytes,)``, empty where it cannot be opened, and its label."""
        label = int(self.labels[index])
        try:
            return torch.from_numpy(np.fromfile(self.path(index), np.uint8)), label
        except OSError:
            return torch.empty(0, dtype=torch.uint8), label


def _image_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
        )
