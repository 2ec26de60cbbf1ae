"""Read folders of class folders of images into memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.utilities import rank_zero_only

from acnet_pl.data.decoding import rgb_pixels
from acnet_pl.data.errors import DataError
from acnet_pl.data.images import InMemoryImages
from acnet_pl.regular_files import check_regular

__all__ = ["CIFARFolders"]

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


@dataclass(frozen=True)
class CIFARFolders:
    """Reads ``root/{train,test}/<class>/*.{jpg,jpeg,png}``. Hidden files and folders are passed over.

    Attributes:
        root: The folder that holds ``train`` and ``test``.
        num_classes: Number of class folders that each of them must hold.
        size: ``(H, W)`` that every image must have.
    """

    root: Path
    num_classes: int
    size: tuple[int, int]

    def are_there(self) -> bool:
        """Return True if there is a folder of training or of test images."""
        return (self.root / "train").is_dir() or (self.root / "test").is_dir()

    def check(self) -> None:
        """Check that both folders exist and have the same classes, as many as the data set has.

        Raises:
            DataError: A folder is missing, or the classes are not these.
        """
        train, test = self._class_names("train"), self._class_names("test")
        if len(train) != self.num_classes:
            raise DataError(
                f"{self.root / 'train'} has {len(train)} class folders, the data set has {self.num_classes} classes; "
                "choose the other data set or mend the folders"
            )
        if train != test:
            odd = ", ".join(sorted(set(train) ^ set(test)))
            raise DataError(f"{self.root}: `train` and `test` must have the same class folders; only one has {odd}")

    @property
    def class_names(self) -> list[str]:
        """Return the names of the class folders, sorted as torchvision's ImageFolder numbers them."""
        return self._class_names("train")

    def read(self, split: Literal["train", "test"]) -> InMemoryImages:
        """Decode the images of a split to RGB, in sorted order.

        Raises:
            DataError: A class without images, a file that is no image or cannot be decoded, an image of another size.
        """
        from rich.markup import escape
        from rich.progress import track

        folder = self.root / split
        samples = [
            pair for label, name in enumerate(self._class_names(split)) for pair in _samples(folder / name, label)
        ]
        images = np.empty((len(samples), *self.size, 3), dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self._decode, [path for path, _ in samples])
            quiet = getattr(rank_zero_only, "rank", 0) != 0
            for i, pixels in enumerate(track(decoded, escape(f"Reading {folder}"), len(samples), disable=quiet)):
                images[i] = pixels
        return InMemoryImages(torch.from_numpy(images), torch.tensor([label for _, label in samples]))

    def _class_names(self, split: str) -> list[str]:
        folder = self.root / split
        if not folder.is_dir():
            raise DataError(
                f"{folder} is not a folder. Set `root` (={self.root}) to the folder that holds `train` and `test`, "
                "each with one folder of images for each class"
            )
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def _decode(self, path: Path) -> npt.NDArray[np.uint8]:
        from PIL import Image

        try:
            check_regular(path)
            with Image.open(path, formats=tuple(set(_FORMATS.values()))) as image:
                size = image.height, image.width
                if size == self.size:
                    return rgb_pixels(image)
        except Exception as error:  # a decoder may fail in any way on a corrupt file
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
        raise DataError(
            f"{path} has {size[0]}×{size[1]} pixels (height×width), expected {self.size[0]}×{self.size[1]}; "
            "resize the images first"
        )


def _samples(folder: Path, label: int) -> Iterator[tuple[Path, int]]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        raise DataError(f"{folder} holds no image; put the images of the class there, or remove the folder")
    for path in paths:
        if path.suffix.lower() not in _FORMATS:
            raise DataError(f"{path} is not an image ({', '.join(_FORMATS)}); move it out of the folder")
        yield path, label
