"""Read images from LitData shards, local or in object storage, without LitData's deserialisers."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acnet_pl.data.errors import DataError
from acnet_pl.data.shard_store import ShardStore
from acnet_pl.regular_files import read_text

__all__ = ["CLASSES_FILE", "INDEX_FILE", "ShardSplit", "ShardedImages"]

CLASSES_FILE = "classes.json"
INDEX_FILE = "index.json"
_IMAGE_LEAVES = ("bytes", "jpeg")
_MOST_OPEN = 512
_WORD = 4  # bytes of a uint32
_SMALLEST = 5 * _WORD  # bytes of a sample without content: its offset, two sizes and the label
_MOST_BYTES = 2**32  # of a shard, whose offsets are uint32
_MOST_IMAGES = 2**31


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Attributes:
        name: Name of the file.
        items: Number of images in it.
    """

    name: str
    items: int


class ShardedImages:
    """Data set that ``python -m acnet_pl data optimize`` wrote: ``classes.json``, ``train/`` and ``val/``.

    Each split is a folder in LitData's format, whose samples are ``(bytes, int)``: an image file and its label. Shards
    whose index says anything else are refused, because reading some of LitData's formats executes code (pickle among
    them). A forged index cannot cause that here: the content of a shard is only ever read as image bytes and labels.

    Args:
        root: A local folder, or the address of one in object storage (``s3://``, ``gs://``, ...).
        cache_dir: Where remote shards are kept; the default is this user's in the machine's temporary folder.
        cache_gb: Most that is kept of them, in 10^9 bytes.
    """

    def __init__(self, root: str, cache_dir: str | Path | None = None, cache_gb: float = 100) -> None:
        self.root = root.rstrip("/") or "/"
        self._cache = (cache_dir, cache_gb)

    def are_there(self) -> bool:
        """Return True for every remote folder, and for a local one that holds shards to train on."""
        return "://" in self.root or Path(self.root, "train", INDEX_FILE).is_file()

    @property
    def class_names(self) -> list[str]:
        """Return the names of the classes, in the order of the labels.

        Raises:
            DataError: ``classes.json`` is missing, or is not a list of names.
        """
        names = _json(ShardStore(self.root, *self._cache), CLASSES_FILE)
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise DataError(f"{self.root}/{CLASSES_FILE} must be a list of the names of the classes")
        return names

    def split(self, name: str) -> ShardSplit:
        """Return the images of "train" or "val".

        Raises:
            DataError: The shards are missing, malformed, or of a format that is not read here.
        """
        return ShardSplit(ShardStore(f"{self.root}/{name}", *self._cache), len(self.class_names))


class ShardSplit:
    """Images of one split, numbered shard after shard.

    Args:
        store: Fetches the files.
        num_classes: Labels are less than this.

    Raises:
        DataError: The index is missing, malformed, or says that something else than images and labels is stored.
    """

    def __init__(self, store: ShardStore, num_classes: int) -> None:
        self.store = store
        self._num_classes = num_classes
        index = _json(store, INDEX_FILE)
        try:
            config = index["config"]
            self.shards = [Shard(str(entry["filename"]), int(entry["chunk_size"])) for entry in index["chunks"]]
            leaves = list(config["data_format"])
            odd = {key: config[key] for key in ("compression", "encryption") if config.get(key)}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{store.root}/{INDEX_FILE} is not the index of a LitData folder ({error!r})") from None
        if len(leaves) != 2 or leaves[1] != "int" or leaves[0] not in _IMAGE_LEAVES:
            raise DataError(
                f"{store.root}/{INDEX_FILE}: samples are stored as {leaves}, but must be ['bytes', 'int'], an image "
                "file and its label. Nothing of them was read: some formats execute code. Make the shards by "
                "`python -m acnet_pl data optimize`"
            )
        if odd or config.get("item_loader", "PyTreeLoader") != "PyTreeLoader":
            raise DataError(f"{store.root}: shards must be neither compressed nor encrypted, got {odd or config}")
        for shard in self.shards:
            if Path(shard.name).name != shard.name or shard.items < 1:
                raise DataError(f"{store.root}/{INDEX_FILE} names a shard {shard.name!r} of {shard.items} samples")
            if shard.items * _SMALLEST > (most := store.size(shard.name, _MOST_BYTES)):
                raise DataError(
                    f"{store.root}/{INDEX_FILE} says that {shard.name} has {shard.items} samples, which {most} bytes "
                    "cannot hold; make the shards anew by `python -m acnet_pl data optimize`"
                )
        if sum(shard.items for shard in self.shards) > _MOST_IMAGES:
            raise DataError(f"{store.root}/{INDEX_FILE} lists more than {_MOST_IMAGES:,} images")
        self.firsts = torch.tensor([0, *(shard.items for shard in self.shards)]).cumsum(0)
        if not self.shards:
            raise DataError(f"{store.root}/{INDEX_FILE} lists no shards")
        self._starts = self.firsts.numpy().copy()  # a tensor that is sent to a worker moves to other memory
        self._open: OrderedDict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # another process opens them itself

    def describe(self, index: int) -> str:
        """Return the image's name for error messages."""
        number = self.shard_of(index)
        return f"image {index - int(self._starts[number])} of {self.store.root}/{self.shards[number].name}"

    def shard_of(self, index: int) -> int:
        """Return the number of the shard of an image."""
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def read(self, index: int) -> tuple[Tensor, int]:
        """Return the content of an image file, uint8 ``(bytes,)``, and its label.

        Raises:
            DataError: The shard cannot be fetched, or is malformed.
        """
        number = self.shard_of(index)
        content, offsets = self._opened(number)
        item = index - int(self._starts[number])
        begin, end = int(offsets[item]), int(offsets[item + 1])
        if end - begin >= 2 * _WORD and end <= len(content):
            sizes = content[begin : begin + 2 * _WORD].view(np.uint32)
            image_end = begin + 2 * _WORD + int(sizes[0])
            if int(sizes[1]) == 8 and image_end + 8 == end:
                label = int.from_bytes(content[image_end:end].tobytes(), "little", signed=True)
                if not 0 <= label < self._num_classes:
                    raise DataError(
                        f"{self.describe(index)} has label {label}; there are {self._num_classes} classes in "
                        f"{CLASSES_FILE}"
                    )
                return torch.from_numpy(content[begin + 2 * _WORD : image_end].copy()), label
        raise DataError(f"{self.describe(index)} is malformed: the shard is damaged; fetch or make it anew")

    def _opened(self, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        content = self._mapped(shard.name)
        table = _WORD * (shard.items + 2)
        if len(content) < table or int(content[:_WORD].view(np.uint32)[0]) != shard.items:
            raise DataError(
                f"{self.store.root}/{shard.name} is not the shard of {shard.items} samples that its index says"
            )
        self._open[number] = content, content[_WORD:table].view(np.uint32)
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return self._open[number]

    def _mapped(self, name: str) -> npt.NDArray[np.uint8]:
        """Map a shard into memory; it stays readable when its file is removed from the cache."""
        while True:
            path = self.store.fetch(name)
            with suppress(FileNotFoundError):  # another process made room in between: fetch it again
                return np.memmap(path, np.uint8, "r").view(np.ndarray)


def _json(store: ShardStore, name: str) -> Any:
    try:
        return json.loads(read_text(store.fetch(name)))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{store.root}/{name} is not JSON ({error})") from None
    except OSError as error:
        raise DataError(f"{store.root}/{name} cannot be read ({error.strerror})") from error
