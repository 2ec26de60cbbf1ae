"""EncodedDataModule: loaders and on-device augmentation for image files decoded on demand."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader

from acnet_pl.data.augment import normalize
from acnet_pl.data.color import color_shift
from acnet_pl.data.encoded_images import Cut, EncodedBatch, EncodedImages, ImageLoader, Split
from acnet_pl.data.images import Batch
from acnet_pl.data.random_words import random_words, uniform_integers
from acnet_pl.data.training_loader import EpochSampler, Progress, TrainingLoader
from acnet_pl.data.workers import leave_process_group, worker_context, worker_count

__all__ = ["Decoder", "EncodedDataModule", "SplitName"]

Decoder = Literal["cpu", "gpu"]
SplitName = Literal["train", "val", "test"]


class EncodedDataModule(pl.LightningDataModule, ABC):
    """Base class for data sets of image files on disk or in object storage.

    Training images are cut by a random box; on the training device they are flipped left-right and shifted in
    brightness, contrast and saturation. Evaluation is a single centre crop. Order and augmentation depend on ``(seed,
    epoch, index)`` alone: not on the number of processes, nor on a resume, also in the middle of an epoch.

    To add a data set, set ``class_names`` and ``num_classes`` in ``__init__`` and write `find_split`.

    Args:
        image_size: Height and width that networks are given.
        resize: Shorter side before the centre crop of evaluation.
        batch_size: Images in a training batch over all devices together: each gets its equal part.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation; None is that of Lightning's seed_everything.
        min_scale: Smallest share of the image's area that a random box has.
        color: Largest relative shift of brightness, contrast and saturation, 0 to 1. 0 is none.
        flip: Flip half of the training images left-right.
        exif: Turn images as their EXIF orientation says.
        num_workers: Processes that read and decode, for each device; at most one per core.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.
        decode: "cpu" or "gpu".
        skip_unreadable: Number of unreadable files put up with in each split.

    Attributes:
        class_names: The names of the classes, in the order of the labels.
        batch_indices: Which images the last batch held, by their position in their set; on the device.
        validates_on_test_images: Whether validation and test images are the same.

    Raises:
        ValueError: An argument is out of its range.
    """

    num_classes: int
    class_names: list[str]
    batch_indices: Tensor | None = None
    validates_on_test_images = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __init__(
        self,
        *,
        image_size: int,
        resize: int,
        batch_size: int,
        eval_batch_size: int,
        seed: int | None,
        min_scale: float,
        color: float,
        flip: bool,
        exif: bool,
        num_workers: int,
        pin_memory: bool,
        decode: Decoder,
        skip_unreadable: int,
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
        self.image_size = image_size
        self.resize = resize
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.min_scale = min_scale
        self.color = color
        self.flip = flip
        self.exif = exif
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.decode = decode
        self.skip_unreadable = skip_unreadable
        self.image_shape = (3, image_size, image_size)
        self._sets: dict[SplitName, EncodedImages] = {}
        self._reported: set[str] = set()

    @abstractmethod
    def find_split(self, name: SplitName) -> Split:
        """List the images of a split; "test" is never requested if `validates_on_test_images`."""

    def training_order(self, split: Split) -> Callable[[int], Tensor] | None:
        """Return the order of the images as a function of the epoch; None for a random permutation."""
        return None

    def fetch_ahead(self, split: Split, sampler: EpochSampler, world_size: int) -> Progress | None:
        """Return an object that fetches images ahead of the training loader; None if there is nothing to fetch."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """List the images of the stage, once.

        Raises:
            DataError: See the class.
        """
        for name in self._needed(stage):
            if name not in self._sets:
                seed = self.seed if name == "train" else None
                cut = Cut(self.image_size, self.resize, self.min_scale, seed, self.exif)
                encoded = self.decode == "gpu"
                self._sets[name] = EncodedImages(self.find_split(name), cut, self.skip_unreadable, encoded)

    @property
    def train_set(self) -> EncodedImages:
        """Return the training images."""
        return self._listed("train", "fit")

    @property
    def val_set(self) -> EncodedImages:
        """Return the validation images."""
        return self._listed("val", "validate")

    @property
    def test_set(self) -> EncodedImages:
        """Return the test images."""
        return self.val_set if self.validates_on_test_images else self._listed("test", "test")

    @property
    def unreadable(self) -> list[str]:
        """Return the unreadable images found so far by this process."""
        return [images.split.describe(index) for images in self._sets.values() for index in images.unreadable.indices()]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of shuffled training batches.

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
        sampler = EpochSampler(
            self.train_set,
            num_replicas=world_size,
            rank=rank,
            seed=self.seed,
            drop_last=True,
            order=self.training_order(split),
        )
        self.teardown("fit")
        return TrainingLoader(
            self.train_set,
            batch_size=self.batch_size // world_size,
            sampler=sampler,
            drop_last=True,
            progress=self.fetch_ahead(split, sampler, world_size),
            **self._workers(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of validation batches in order; DDP counts no image twice."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of test batches in order; DDP counts no image twice."""
        return self._evaluation_loader(self.test_set)

    predict_dataloader = test_dataloader

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images, uint8 ``(N, H, W, C)``, into a network's input, float32 ``(N, C, H, W)``."""
        return normalize(images, self.mean, self.std)

    def on_before_batch_transfer(self, batch: Batch | EncodedBatch, dataloader_idx: int) -> Batch | EncodedBatch:
        """Warn of new unreadable images."""
        self._report()
        return batch

    def transfer_batch_to_device(
        self, batch: Batch | EncodedBatch, device: torch.device, dataloader_idx: int
    ) -> Batch | EncodedBatch:
        """Move a batch to the device; images that are still encoded are decoded there, from CPU memory."""
        if not isinstance(batch, EncodedBatch):
            moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
            return moved
        images, labels, indices = self._current_set().decoded(batch, device)
        self._report()
        return images, labels.to(device), indices.to(device)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise a batch on its device; in training also flip it and shift its colours."""
        images, labels, indices = batch
        self.batch_indices = indices
        trainer = self.trainer
        if trainer is not None and self._trains():
            if self.flip:
                flipped = uniform_integers(random_words(self.seed, trainer.current_epoch, indices), 0, 2) == 1
                images = torch.where(flipped[:, None, None, None], images.flip(2), images)
            if self.color:
                images = color_shift(images, random_words(~self.seed, trainer.current_epoch, indices), self.color)
        images = self.normalize(images)
        return (images if trainer is None else trainer.precision_plugin.convert_input(images)), labels

    def _needed(self, stage: str | None) -> list[SplitName]:
        """Return the splits that a stage needs; `fit` needs those to validate on, too."""
        needed: list[SplitName] = ["train"] if stage in ("fit", None) else []
        if stage not in ("test", "predict") or self.validates_on_test_images:
            needed.append("val")
        if stage not in ("fit", "validate") and not self.validates_on_test_images:
            needed.append("test")
        return needed

    def _trains(self) -> bool:
        return self.trainer is not None and bool(self.trainer.training)

    def _current_set(self) -> EncodedImages:
        """Return the images of the running loop."""
        if self._trains():
            return self.train_set
        validates = self.trainer is None or self.trainer.validating or self.trainer.sanity_checking
        return self.val_set if validates else self.test_set

    def _listed(self, name: SplitName, stage: str) -> EncodedImages:
        if name not in self._sets:
            raise RuntimeError(f"the images are not listed yet; call setup({stage!r}) first")
        return self._sets[name]

    def _evaluation_loader(self, images: EncodedImages) -> ImageLoader:
        world_size, rank = self._processes()
        return ImageLoader(
            images,
            batch_size=max(1, self.eval_batch_size // world_size),
            sampler=UnrepeatedDistributedSampler(images, world_size, rank, shuffle=False),
            **self._workers(),
        )

    def _processes(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _workers(self) -> dict[str, Any]:
        world_size, _ = self._processes()
        return {
            "num_workers": worker_count(self.num_workers),
            "multiprocessing_context": worker_context(world_size, self.num_workers),
            "worker_init_fn": leave_process_group,
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


def _as_it_is(batch: Any) -> Any:
    return batch
