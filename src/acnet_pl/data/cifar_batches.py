"""Read the official python layout of CIFAR-10 and CIFAR-100: pickled batches with published MD5 sums."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from acnet_pl.data.errors import DataError
from acnet_pl.data.images import InMemoryImages
from acnet_pl.data.safe_pickle import load_pickle
from acnet_pl.regular_files import check_regular

__all__ = ["CIFARBatches"]

Dataset = Literal["cifar10", "cifar100"]
_SIZE = 32
_ROW = 3 * _SIZE * _SIZE


@dataclass(frozen=True)
class CIFARBatches:
    """Reads one release of CIFAR from the folder that its archive unpacks to.

    Attributes:
        dataset: "cifar10" or "cifar100".
        root: The folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        class_names: The published names, in the order of the labels.
        verify: Compare every file with its published MD5 sum before anything is made of it.
    """

    dataset: Dataset
    root: Path
    class_names: list[str]
    verify: bool

    @property
    def folder(self) -> Path:
        """Return the folder of the batches."""
        return self.root / str(self._release.base_folder)

    def missing_files(self) -> list[str]:
        """Return the missing files of the release."""
        release = self._release
        names = [name for name, _ in release.train_list + release.test_list] + [release.meta["filename"]]
        return [name for name in names if not (self.folder / name).is_file()]

    def check(self) -> None:
        """Check that every file exists.

        Raises:
            DataError: One is not.
        """
        if missing := self.missing_files():
            raise DataError(
                f"{self.folder} does not hold {', '.join(missing)}, which the official python version of "
                f"{self.dataset} has. Set `root` (={self.root}) to the folder that holds {self.folder.name}, or say "
                f"`download: true`, or give images as {self.root / 'train' / '<class>' / '*.png'} and "
                f"{self.root / 'test' / '<class>' / '*.png'}"
            )

    def download(self) -> None:
        """Download the release's archive, verify its MD5 sum and unpack it without unpickling anything.

        Raises:
            DataError: It cannot be fetched or is not the published one.
        """
        from torchvision.datasets.utils import download_and_extract_archive

        release = self._release
        try:
            download_and_extract_archive(release.url, str(self.root), filename=release.filename, md5=release.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{release.url} could not be downloaded to {self.root} ({error}); fetch it on a machine that can, and "
                f"unpack it so that {self.folder} is there"
            ) from error

    def read(self, split: Literal["train", "test"]) -> InMemoryImages:
        """Read the 50,000 training or the 10,000 test images (any number, if not verified).

        Raises:
            DataError: A file is missing, truncated, tampered with or of another data set.
        """
        release = self._release
        files = release.train_list if split == "train" else release.test_list
        self._check_class_names(release.meta["filename"], release.meta["md5"], release.meta["key"])
        batches = [self._read_batch(self.folder / name, md5) for name, md5 in files]
        images = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, _SIZE, _SIZE)
        labels = torch.tensor([label for _, labels in batches for label in labels])
        for label in (labels.bincount(minlength=len(self.class_names)) == 0).nonzero().flatten().tolist():
            raise DataError(
                f"{self.folder}: no {split} image is of class {label} ({self.class_names[label]!r}); "
                f"this is not the whole data set. {self._way_out}"
            )
        return InMemoryImages(torch.from_numpy(images).permute(0, 2, 3, 1).contiguous(), labels)

    @property
    def _release(self) -> Any:
        from torchvision.datasets import CIFAR10, CIFAR100

        return CIFAR10 if self.dataset == "cifar10" else CIFAR100

    @property
    def _way_out(self) -> str:
        return f"Delete {self.folder} and get the release anew (`download: true` does it where there is a network)"

    def _check_class_names(self, filename: str, md5: str, key: str) -> None:
        path = self.folder / filename
        names = self._entry(self._unpickle(path, md5), key, path)
        if names != self.class_names:
            raise DataError(f"{path}: `{key}` are not the class names of {self.dataset}. {self._way_out}")

    def _read_batch(self, path: Path, md5: str) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[int]]:
        batch = self._unpickle(path, md5)
        rows = self._entry(batch, "data", path)
        key = "labels" if self.dataset == "cifar10" else "fine_labels"
        labels = self._entry(batch, key, path)
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _ROW:
            got = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise DataError(f"{path}: `data` must be a uint8 array of shape (N, {_ROW}), got {got}. {self._way_out}")
        if not isinstance(labels, list) or len(labels) != len(rows):
            got = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
            raise DataError(f"{path}: `{key}` must be a list of {len(rows)} labels, got {got}. {self._way_out}")
        for position, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < len(self.class_names):
                got = str(label) if type(label) is int and abs(label) < 2**63 else f"a {type(label).__name__}"
                raise DataError(
                    f"{path}: label {position} is {got}; the labels of {self.dataset} are integers from 0 to "
                    f"{len(self.class_names) - 1}. {self._way_out}"
                )
        return rows, labels

    def _unpickle(self, path: Path, md5: str) -> dict[Any, Any]:
        try:
            check_regular(path)
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}). {self._way_out}") from error
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if self.verify and got != md5:
            raise DataError(
                f"{path}: MD5 sum {got} instead of {md5}: the file is truncated, altered or not of the official "
                f"release. {self._way_out}, or say `verify: false` if this is a copy you made yourself"
            )
        try:
            batch = load_pickle(content)
        except pickle.UnpicklingError as error:
            raise DataError(f"{path} was refused: {error}. Nothing in it was executed. {self._way_out}") from error
        if not isinstance(batch, dict):
            raise DataError(f"{path} holds a {type(batch).__name__} instead of a dict. {self._way_out}")
        return batch

    def _entry(self, batch: dict[Any, Any], key: str, path: Path) -> Any:
        if key not in batch:
            raise DataError(f"{path} has no entry `{key}`; is it a file of {self.dataset}? {self._way_out}")
        return batch[key]
