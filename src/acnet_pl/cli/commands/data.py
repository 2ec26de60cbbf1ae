"""Write a data set as shards that can be streamed, or find unreadable images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from acnet_pl.cli.functions import run_function
from acnet_pl.config.errors import UsageError
from acnet_pl.config.files import check_there

__all__ = ["check", "optimize", "run"]

_EXAMPLES = ("data check images/", "data optimize images/ shards/")


def optimize(source: Path, destination: Path, shard_mb: float = 64.0, workers: int = 8, check: bool = True) -> None:
    """Write a data set as LitData shards, which can be streamed from object storage; image files are kept as they are.

    Args:
        source: A folder that holds train/<class>/* and val/<class>/*, or class folders of which a fifth is to validate,
            or CIFAR in the official layout.
        destination: Folder to write; it must not exist, or be empty. Copy it to a bucket as it is.
        shard_mb: Size of a shard, in 10^6 bytes.
        workers: Threads that read the images.
        check: Decode every image, and stop at the first that cannot be.
    """
    check_there(source, "folder")
    from rich.console import Console

    from acnet_pl.data.shard_writer import write_shards

    _positive(shard_mb=shard_mb, workers=workers)
    splits, class_names = _splits(source)
    counts = write_shards(splits, class_names, destination, shard_mb, workers, check)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for name, split in splits.items():
        console.print(f"{name}: {len(split):,} images in {counts[name]:,} shards")
    console.print(f"Wrote {destination}; train on it with --data ImageNetDataModule --data.root {destination}")


def check(source: Path, workers: int = 8) -> None:
    """Decode every image of a data set once; name unreadable ones, and grey ones of more than 8 bits.

    Args:
        source: A folder of class folders, or of train/<class>/* and val/<class>/*; CIFAR in the official layout; or
            shards.
        workers: Threads that decode.
    """
    check_there(source, "folder")
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    from acnet_pl.data.class_folders import FileSplit
    from acnet_pl.data.errors import DataError
    from acnet_pl.data.shard_writer import in_order

    _positive(workers=workers)
    splits, class_names = _splits(source, val_size=1)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    damaged = deep = 0

    with ThreadPoolExecutor(workers) as pool:
        for name, split in splits.items():
            faults = in_order(pool, partial(_fault, split), range(len(split)), 4 * workers)
            for fault, note in track(faults, escape(f"Decoding {name}"), total=len(split)):
                damaged += fault is not None
                deep += note is not None
                if found := fault or note:
                    console.print(found)
            console.print(f"{name}: {len(split):,} images of {len(class_names):,} classes")
            if isinstance(split, FileSplit) and (empty := {*range(len(class_names))} - {*split.labels.tolist()}):
                without = ", ".join(repr(class_names[label]) for label in sorted(empty))
                console.print(f"{name}: no image of {without}; a class without images to train on is refused")
    if deep:
        console.print(f"{deep:,} grey images of more than 8 bits: their values are scaled to 0 to 255 for training")
    if damaged:
        raise DataError(
            f"{damaged} of the images cannot be decoded; mend or remove them, or train with --data.skip_unreadable "
            f"{damaged}"
        )


def run(args: Sequence[str]) -> None:
    """Parse the options and run the subcommand."""
    run_function({"optimize": optimize, "check": check}, args, _EXAMPLES)


# Splits are not named as types here: to read the options, their modules would be imported.
def _fault(split: Any, index: int) -> tuple[str | None, str | None]:
    """Return why an image cannot be decoded, and a note if it is grey of more than 8 bits; each may be None."""
    from acnet_pl.data.decoding import UnreadableImageError, decode, value_range
    from acnet_pl.data.errors import DataError

    try:
        content = split.read(index)[0]
        decode(content)
    except (UnreadableImageError, DataError) as error:
        return f"{split.describe(index)}: {error}", None
    if (values := value_range(content)) is None:
        return None, None
    low, high = values
    scale = 1 if high <= 1 else 65_535
    dark = ", so that it comes out dark" if high < scale / 4 else ""
    return None, f"{split.describe(index)}: grey values {low:,g} to {high:,g} of {scale:,}{dark}"


def _positive(**options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise UsageError(f"`{name}` (={value}) must be more than 0")


def _splits(source: Path, val_size: float = 0.2) -> tuple[dict[str, Any], list[str]]:
    from acnet_pl.data import CIFARDataModule
    from acnet_pl.data.class_folders import ClassFolders
    from acnet_pl.data.photo_folders import PhotoFolders
    from acnet_pl.data.shard_writer import EncodedInMemory
    from acnet_pl.data.shards import ShardedImages

    names = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}
    for folder, dataset in names.items():
        if (source / folder).is_dir():
            data = CIFARDataModule(dataset, source, layout="python", val_size=0)  # type: ignore[arg-type]
            train, test = data.load_training_sets()
            return {
                "train": EncodedInMemory(train, f"{source}/train"),
                "val": EncodedInMemory(test, f"{source}/test"),
            }, data.class_names
    shards = ShardedImages(str(source))
    if not shards.are_there() and not all((source / name).is_dir() for name in ("train", "val")):
        photos = PhotoFolders(source, val_size)
        if val_size == 1 and len(photos.parts) == 1:  # all are looked at, in one part, which has no name
            return {source.name or str(source): photos.split("val")}, photos.class_names
        parts = [*photos.parts] if len(photos.parts) > 1 else ["train", "val"]
        return {name: photos.split(name) for name in parts}, photos.class_names
    images = shards if shards.are_there() else ClassFolders(source)
    return {name: images.split(name) for name in ("train", "val")}, images.class_names
