"""ImageNetDataModule: class folders or LitData shards of images, decoded as they are needed."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader

from acnet_pl.data.augment import normalize
from acnet_pl.data.class_folders import ClassFolders
from acnet_pl.data.color import color_shift
from acnet_pl.data.encoded_images import Cut, EncodedBatch, EncodedImages, ImageLoader, Split
from acnet_pl.data.images import Batch
from acnet_pl.data.random_words import random_words, uniform_integers
from acnet_pl.data.shard_order import BLOCK, LANES, ShardPrefetcher, shard_order
from acnet_pl.data.shards import ShardedImages, ShardSplit
from acnet_pl.data.training_loader import EpochSampler, TrainingLoader

__all__ = ["ImageNetDataModule"]

Decoder = Literal["cpu", "gpu"]


class ImageNetDataModule(pl.LightningDataModule):
    """ImageNet, or any images as ``root/{train,val}/<class>/*`` (Sect. 4.2). The validation images are the test images.

    Training images are cut by a random box (the "bounding box distortion"); on the training device they are flipped
    left-right and shifted in brightness, contrast and saturation. Evaluation is a single centre crop. Order and
    augmentation depend on ``(seed, epoch, index)`` alone: not on the number of processes, nor on a resume, also in the
    middle of an epoch.

    ``root`` may also be what ``python -m acnet_pl data optimize`` wrote: a folder of LitData shards, on a disk or in
    object storage (``s3://bucket/imagenet``). Remote shards are fetched ahead of their use into a cache of limited
    size; 2, 4, ..., 64 processes fetch different ones.

    Args:
        root: The folder that holds ``train`` and ``val``, or its address in object storage.
        image_size: Height and width that networks are given.
        resize: Shorter side before the centre crop of evaluation.
        batch_size: Images in a training batch over all devices together: each gets its equal part.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation; None is that of Lightning's seed_everything.
        min_scale: Smallest share of the image's area that a random box has.
        color: Largest relative shift of brightness, contrast and saturation, 0 to 1. 0 is none.
        num_workers: Processes that read and decode, for each device.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.
        decode: "cpu" decodes in the worker processes. "gpu" has them read only, and decodes (nvJPEG) and cuts on the
            training device: for machines with few cores for each GPU. Batches of the loaders are then still encoded.
        skip_unreadable: Number of unreadable files put up with in each split, with a warning for each. In training the
            next readable image takes the place; in evaluation the image is left out. 0 stops at the first.
        cache_dir: Where remote shards are kept; the default is below the machine's temporary folder. What is there is
            taken to be what is in the storage: empty it when the latter has changed.
        cache_gb: Size of that cache for training shards, in 10^9 bytes; those of ``val`` are kept.

    Attributes:
        class_names: The names of the class folders, in the order of the labels.
        batch_indices: Which images the last batch held, by their position in their set; on the device.

    Raises:
        ValueError: An argument is out of its range.
        DataError: On ``setup``: a split is missing, a class is empty, or the classes of the splits differ; in a batch:
            an image cannot be decoded, and ``skip_unreadable`` does not allow for it.

    Example:
        >>> data = ImageNetDataModule("s3-or-local-folder", image_size=224, decode="gpu")
        >>> data.num_classes, data.image_shape
        (1000, (3, 224, 224))
    """

    batch_indices: Tensor | None = None
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        image_size: int = 224,
        resize: int = 256,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        seed: int | None = None,
        min_scale: float = 0.08,
        color: float = 0.4,
        num_workers: int = 8,
        pin_memory: bool = True,
        decode: Decoder = "cpu",
        skip_unreadable: int = 0,
        cache_dir: str | None = None,
        cache_gb: float = 100.0,
    ) -> None:
        super().__init__()
        if image_size < 1:
            raise ValueError(f"`image_size` (={image_size}) must be at least 1")
        if resize < image_size:
            raise ValueError(f"`resize` (={resize}) must be at least `image_size` (={image_size})")
        if not (0 < min_scale <= 1 and 0 <= color <= 1):
            raise ValueError(f"`min_scale` (={min_scale}) must be in (0, 1] and `color` (={color}) in [0, 1]")
        if decode not in get_args(Decoder):
            raise ValueError(f"`decode` (={decode!r}) must be 'cpu' or 'gpu'")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("skip_unreadable", skip_unreadable, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` (={value}) must be at least {least}")
        self.root = str(root) if "://" in str(root) else Path(root).expanduser()
        self.image_size = image_size
        self.resize = resize
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.min_scale = min_scale
        self.color = color
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.decode = decode
        self.skip_unreadable = skip_unreadable
        self.image_shape = (3, image_size, image_size)
        shards = ShardedImages(str(self.root), cache_dir, cache_gb)
        self._source = shards if shards.are_there() else ClassFolders(Path(self.root))
        # Known before anything else is read, because networks are built for them.
        self.class_names = self._source.class_names
        self.num_classes = len(self.class_names) or 1000
        self._train: EncodedImages | None = None
        self._val: EncodedImages | None = None
        self._reported: set[str] = set()
        self._prefetcher: ShardPrefetcher | None = None

    def setup(self, stage: str | None = None) -> None:
        """List what is there, once.

        Raises:
            DataError: See the class.
        """
        if self._val is None:
            self._val = self._images(self._source.split("val"), seed=None)
        if self._train is None and stage in ("fit", None):
            self._train = self._images(self._source.split("train"), seed=self.seed)

    def teardown(self, stage: str | None = None) -> None:
        """Stop fetching shards."""
        if self._prefetcher is not None:
            self._prefetcher.stop()
            self._prefetcher = None

    @property
    def train_set(self) -> EncodedImages:
        """The training images."""
        return _listed(self._train, "fit")

    @property
    def val_set(self) -> EncodedImages:
        """The validation images."""
        return _listed(self._val, "validate")

    @property
    def unreadable(self) -> list[str]:
        """The unreadable images that this process has met so far."""
        sets = (images for images in (self._train, self._val) if images is not None)
        return [images.split.describe(index) for images in sets for index in images.unreadable.indices()]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches.

        Raises:
            ValueError: The batch does not divide by the number of devices, or is larger than the training set.
        """
        world_size, rank = self._processes()
        if self.batch_size % world_size or self.batch_size > len(self.train_set):
            raise ValueError(
                f"`batch_size` (={self.batch_size}) must be divisible by the {world_size} devices and at most the "
                f"number of training images (={len(self.train_set)})"
            )
        split = self.train_set.split
        sizes = [shard.items for shard in split.shards] if isinstance(split, ShardSplit) else []
        sampler = EpochSampler(
            self.train_set,
            num_replicas=world_size,
            rank=rank,
            seed=self.seed,
            drop_last=True,
            order=(lambda epoch: shard_order(sizes, self.seed, epoch)) if sizes else None,
        )
        self.teardown()
        if isinstance(split, ShardSplit) and split.store.remote:
            self._prefetcher = ShardPrefetcher(split, sampler.share, BLOCK * max(1, LANES // world_size))
        return TrainingLoader(
            self.train_set,
            batch_size=self.batch_size // world_size,
            sampler=sampler,
            drop_last=True,
            progress=self._prefetcher,
            **self._workers(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches, in order; no image is counted twice under DDP."""
        world_size, rank = self._processes()
        return ImageLoader(
            self.val_set,
            batch_size=max(1, self.eval_batch_size // world_size),
            sampler=UnrepeatedDistributedSampler(self.val_set, world_size, rank, shuffle=False),
            **self._workers(),
        )

    def test_dataloader(self) -> DataLoader[Batch]:
        """The validation batches: ImageNet's test labels are not public."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The validation batches."""
        return self.val_dataloader()

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images, uint8 ``(N, H, W, C)``, into a network's input, float32 ``(N, C, H, W)``."""
        return normalize(images, self.mean, self.std)

    def on_before_batch_transfer(self, batch: Batch | EncodedBatch, dataloader_idx: int) -> Batch | EncodedBatch:
        """Warn of the unreadable images that were met since the last batch."""
        self._report()
        return batch

    def transfer_batch_to_device(
        self, batch: Batch | EncodedBatch, device: torch.device, dataloader_idx: int
    ) -> Batch | EncodedBatch:
        """Move a batch; what is still encoded stays on the CPU, where nvJPEG takes it from."""
        if not isinstance(batch, EncodedBatch):
            moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
            return moved
        images, labels, indices = (self.train_set if self._trains() else self.val_set).decoded(batch, device)
        self._report()
        return images, labels.to(device), indices.to(device)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Flip and shift colours (in training alone), and normalise a batch on the device it was moved to."""
        images, labels, indices = batch
        self.batch_indices = indices
        trainer = self.trainer
        if trainer is not None and self._trains():
            flipped = uniform_integers(random_words(self.seed, trainer.current_epoch, indices), 0, 2) == 1
            images = torch.where(flipped[:, None, None, None], images.flip(2), images)
            if self.color:
                images = color_shift(images, random_words(~self.seed, trainer.current_epoch, indices), self.color)
        images = self.normalize(images)
        return (images if trainer is None else trainer.precision_plugin.convert_input(images)), labels

    def _trains(self) -> bool:
        return self.trainer is not None and bool(self.trainer.training)

    def _images(self, split: Split, seed: int | None) -> EncodedImages:
        cut = Cut(self.image_size, self.resize, self.min_scale, seed)
        return EncodedImages(split, cut, self.skip_unreadable, encoded=self.decode == "gpu")

    def _processes(self) -> tuple[int, int]:
        """The number of processes and the rank of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "worker_init_fn": _leave_process_group,
            "pin_memory": self.pin_memory and torch.cuda.is_available(),
            "collate_fn": _as_it_is,
        }

    def _report(self) -> None:
        if not self.skip_unreadable:
            return
        for image in self.unreadable:
            if image not in self._reported:
                self._reported.add(image)
                number = f"{len(self._reported)} of at most {self.skip_unreadable} in each split"
                warnings.warn(f"{image} cannot be decoded and is skipped ({number})", stacklevel=2)


def _leave_process_group(worker: int) -> None:
    """Not to be ended with the training process by a signal to all of its group, which is to end in order."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _listed(images: EncodedImages | None, stage: str) -> EncodedImages:
    if images is None:
        raise RuntimeError(f"the images are not listed yet; call setup({stage!r}) first")
    return images
