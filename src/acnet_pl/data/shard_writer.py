"""Write data sets as LitData shards: image files byte for byte, in random order."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from acnet_pl.data.decoding import UnreadableImageError, decode
from acnet_pl.data.encoded_images import Split
from acnet_pl.data.errors import DataError
from acnet_pl.data.images import InMemoryImages
from acnet_pl.data.random_words import random_words
from acnet_pl.data.shards import CLASSES_FILE

__all__ = ["EncodedInMemory", "in_order", "new_folder", "write_shards"]


Result = TypeVar("Result")


class EncodedInMemory:
    """Images in memory as lossless PNG files.

    Args:
        images: Images, each of which is encoded when it is read.
        name: Name for error messages.
    """

    def __init__(self, images: InMemoryImages, name: str) -> None:
        self._images = images
        self._name = name

    def __len__(self) -> int:
        return len(self._images)

    def describe(self, index: int) -> str:
        """Return the image's name for error messages."""
        return f"image {index} of {self._name}"

    def read(self, index: int) -> tuple[Tensor, int]:
        """Return a PNG file, uint8 ``(bytes,)``, and the label."""
        import io

        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(self._images.images[index].numpy()).save(file, "PNG")
        return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8), int(self._images.labels[index])


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[int], Result], items: Iterable[int], ahead: int
) -> Iterator[Result]:
    """Yield the results of a function in the order of the items, at most ``ahead`` computed in advance."""
    futures = (pool.submit(function, item) for item in items)
    waiting = deque(islice(futures, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(islice(futures, 1))


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; it becomes ``destination`` if the block succeeds, else it is removed.

    Raises:
        DataError: There is something at the destination already.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise DataError(f"{destination} is there already and not empty; remove it, or give another destination")
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".unfinished-{destination.name}-", dir=destination.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # temporary folders are their owner's alone
        if destination.is_dir():
            destination.rmdir()
        unfinished.replace(destination)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_shards(
    splits: dict[str, Split], class_names: list[str], destination: Path, shard_mb: float, workers: int, check: bool
) -> dict[str, int]:
    """Write splits as LitData shards of ``(image file, label)`` below a new folder, and the names of the classes.

    Samples are put in a random order, the same whenever the same data set is written, so that each shard is a sample
    of the whole: reading a few of them at a time, in any order, then shuffles well.

    Args:
        splits: The images of each split.
        class_names: In the order of the labels.
        destination: Must not exist, or be empty.
        shard_mb: Size of a shard, in 10^6 bytes.
        workers: Threads that read, and decode where images are checked.
        check: Decode every image, and stop at the first that cannot be.

    Returns:
        Number of shards of each split.

    Raises:
        DataError: The destination is not empty, or an image cannot be read.
    """
    try:
        from litdata.streaming import Cache
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to write shards, install LitData: pip install 'acnet-pl[streaming]'") from None
    from rich.markup import escape
    from rich.progress import track

    counts = {}
    with new_folder(destination) as unfinished, ThreadPoolExecutor(workers) as pool:
        for name, split in splits.items():
            folder = unfinished / name
            folder.mkdir()
            writer = Cache(str(folder), chunk_bytes=int(shard_mb * 10**6))
            order = random_words(0, 0, torch.arange(len(split))).argsort(stable=True).tolist()
            samples = in_order(pool, partial(_read, split, check), order, 4 * workers)
            for position, sample in enumerate(track(samples, escape(f"Writing {name}"), total=len(split))):
                writer[position] = sample
            writer.done()
            writer.merge()
            counts[name] = len(json.loads((folder / "index.json").read_text())["chunks"])
        (unfinished / CLASSES_FILE).write_text(json.dumps(class_names, indent=1, ensure_ascii=False) + "\n")
    return counts


def _read(split: Split, check: bool, index: int) -> tuple[bytes, int]:
    content, label = split.read(index)
    error: Exception | str = "there is nothing in it"
    if len(content):
        try:
            if check:
                decode(content)
            return content.numpy().tobytes(), label
        except UnreadableImageError as caught:
            error = caught
    raise DataError(f"{split.describe(index)} cannot be decoded ({error}); mend or remove it")
