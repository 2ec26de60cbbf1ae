"""InMemoryDataModule: loaders and on-device augmentation for data sets that fit in memory."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader

from acnet_pl.data.augment import augment, normalize
from acnet_pl.data.images import Batch, InMemoryImages
from acnet_pl.data.training_loader import TrainingLoader, TrainingSampler

__all__ = ["InMemoryDataModule"]

_MAX_PAD = 1000


class InMemoryDataModule(pl.LightningDataModule, ABC):
    """Base class for data sets kept in memory as uint8 and augmented on the training device.

    The loaders yield ``(images uint8 (N, H, W, C), labels int64 (N,), indices int64 (N,))``; under a Trainer the model
    receives ``(images float32 (N, C, H, W) in channels-last memory, labels)``, augmented in training and normalised
    always. Outside of one, `normalize` does the latter::

        for images, labels, _ in data.test_dataloader():
            logits = model(data.normalize(images))

    Training order and augmentation depend on ``(seed, epoch)`` alone: not on the number of processes, nor on a resume,
    also in the middle of an epoch. In evaluation no image is counted twice under DDP: the processes' shares differ in
    length by at most one instead of being filled up with repeated images, as Lightning's own sampler would.

    To add a data set, set the class attributes (or set them in ``__init__``) and write the two ``load_`` methods.

    Args:
        batch_size: Images in a training batch over all devices together: each gets its equal part.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation of the training images; None is that of Lightning's seed_everything.
        pad: Black pixels added on each side before the random crop. 0 is no cropping.
        flip: Flip half of the training images left-right.
        drop_last: Leave out what remains of an epoch after the last whole batch (other images in every epoch). A last,
            smaller batch would take a step of full size on a noisier gradient and noisier batch statistics, and
            `compile: true` would have to compile for its shape.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.

    Attributes:
        num_classes: Number of classes.
        class_names: Their names, in the order of the labels.
        image_shape: ``(C, H, W)``.
        mean: Mean of each channel over the training images, on the 0..1 scale.
        std: Standard deviation, likewise.
        batch_indices: Which images the last batch held, by their position in their set; on the device.
    """

    num_classes: int
    class_names: list[str]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_indices: Tensor | None = None

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        seed: int | None,
        pad: int,
        flip: bool,
        drop_last: bool,
        pin_memory: bool,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        if not 0 <= pad <= _MAX_PAD:
            raise ValueError(f"`pad` (={pad}) must be from 0 to {_MAX_PAD} pixels")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.pad = pad
        self.flip = flip
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        self._train_set: InMemoryImages | None = None
        self._val_set: InMemoryImages | None = None
        self._test_set: InMemoryImages | None = None

    @abstractmethod
    def load_training_sets(self) -> tuple[InMemoryImages, InMemoryImages]:
        """Read the training and the validation images."""

    @abstractmethod
    def load_test_set(self) -> InMemoryImages:
        """Read the test images."""

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that a stage needs; each split is read once.

        Args:
            stage: "fit", "validate", "test" or "predict"; None reads everything.
        """
        # The loader runs no Python for a single image: workers could only make it slower.
        warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
        if stage not in ("test", "predict") and self._train_set is None:
            self._train_set, self._val_set = self.load_training_sets()
        if stage not in ("fit", "validate") and self._test_set is None:
            self._test_set = self.load_test_set()

    @property
    def train_set(self) -> InMemoryImages:
        """Return the training images."""
        return _loaded(self._train_set, "fit")

    @property
    def val_set(self) -> InMemoryImages:
        """Return the validation images."""
        return _loaded(self._val_set, "fit")

    @property
    def test_set(self) -> InMemoryImages:
        """Return the test images."""
        return _loaded(self._test_set, "test")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of shuffled training batches.

        Raises:
            ValueError: The batch does not divide by the number of devices, or is larger than the training set.
        """
        world_size, rank = self._processes()
        if self.batch_size % world_size:
            raise ValueError(
                f"`batch_size` (={self.batch_size}) is shared equally by the {world_size} devices, so it must be "
                f"divisible by {world_size}; {_nearest_multiples(self.batch_size, world_size)} would do"
            )
        if self.batch_size > len(self.train_set):
            raise ValueError(
                f"`batch_size` (={self.batch_size}) must be at most the number of training images "
                f"(={len(self.train_set)})"
            )
        sampler = TrainingSampler(
            self.train_set, num_replicas=world_size, rank=rank, seed=self.seed, drop_last=self.drop_last
        )
        return TrainingLoader(
            self.train_set,
            batch_size=self.batch_size // world_size,
            sampler=sampler,
            collate_fn=_as_it_is,
            drop_last=self.drop_last,
            pin_memory=self._pins_memory(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of validation batches in order."""
        return self._evaluation_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of test batches in order."""
        return self._evaluation_loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return a loader of test batches in order."""
        return self._evaluation_loader(self.test_set)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn stored images, uint8 ``(N, H, W, C)``, into a network's input, float32 ``(N, C, H, W)``."""
        return normalize(images, self.mean, self.std)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise a batch on its device; in training also augment it."""
        images, labels, indices = batch
        trainer = self.trainer
        self.batch_indices = indices
        if trainer is not None and trainer.training:
            images = augment(images, indices, seed=self.seed, epoch=trainer.current_epoch, pad=self.pad, flip=self.flip)
        images = self.normalize(images)
        # Lightning converts batches for 16-true and its like before this hook, when images are still uint8.
        return (images if trainer is None else trainer.precision_plugin.convert_input(images)), labels

    def _evaluation_loader(self, dataset: InMemoryImages) -> DataLoader[Batch]:
        world_size, rank = self._processes()
        return DataLoader(
            dataset,
            batch_size=max(1, self.eval_batch_size // world_size),
            sampler=UnrepeatedDistributedSampler(dataset, world_size, rank, shuffle=False),
            collate_fn=_as_it_is,
            pin_memory=self._pins_memory(),
        )

    def _processes(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _pins_memory(self) -> bool:
        return self.pin_memory and torch.cuda.is_available()


def _as_it_is(batch: Any) -> Any:
    return batch


def _loaded(dataset: InMemoryImages | None, stage: str) -> InMemoryImages:
    if dataset is None:
        raise RuntimeError(f"the images are not loaded yet; call prepare_data() and setup({stage!r}) first")
    return dataset


def _nearest_multiples(number: int, divisor: int) -> str:
    below = number // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)
