"""ImageNetDataModule: train/ and val/ folders of class folders, read from disk as they are needed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from acnet_pl.data.augment import normalize
from acnet_pl.data.errors import DataError
from acnet_pl.data.images import Batch
from acnet_pl.data.random_words import random_words, uniform_integers
from acnet_pl.data.training_loader import TrainingLoader, TrainingSampler

__all__ = ["ImageNetDataModule", "color_shift", "random_resized_box"]

_STEPS = 2000  # of each colour factor's grid


class ImageNetDataModule(pl.LightningDataModule):
    """ImageNet, or any images as ``root/{train,val}/<class>/*`` (Sect. 4.2). The validation images are the test images.

    Training images are cut by a random box (the "bounding box distortion"), flipped left-right and, on the training
    device, shifted in brightness, contrast and saturation; evaluation is a single centre crop. Order and augmentation
    depend on ``(seed, epoch, index)`` alone.

    Args:
        root: The folder that holds ``train`` and ``val``.
        image_size: Height and width that networks are given.
        resize: Shorter side before the centre crop of evaluation.
        batch_size: Images in a training batch over all devices together.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation; None is that of Lightning's seed_everything.
        min_scale: Smallest share of the image's area that a random box has.
        color: Largest relative shift of brightness, contrast and saturation, 0 to 1. 0 is none.
        num_workers: Processes that decode.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.

    Raises:
        ValueError: An argument is out of its range.
        DataError: On ``setup``: a folder is missing, or the classes of ``train`` and ``val`` differ.
    """

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
    ) -> None:
        super().__init__()
        if resize < image_size:
            raise ValueError(f"`resize` (={resize}) must be at least `image_size` (={image_size})")
        if not (0 < min_scale <= 1 and 0 <= color <= 1):
            raise ValueError(f"`min_scale` (={min_scale}) must be in (0, 1] and `color` (={color}) in [0, 1]")
        self.root = Path(root).expanduser()
        self.image_size = image_size
        self.resize = resize
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.min_scale = min_scale
        self.color = color
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.image_shape = (3, image_size, image_size)
        # Known before anything is read, because networks are built for them.
        self.class_names = _class_names(self.root / "train") if (self.root / "train").is_dir() else []
        self.num_classes = len(self.class_names) or 1000

    def setup(self, stage: str | None = None) -> None:
        """List the files.

        Raises:
            DataError: See the class.
        """
        for split in ("train", "val"):
            if not (self.root / split).is_dir():
                raise DataError(f"{self.root / split} is missing; `root` must hold train/<class>/* and val/<class>/*")
        odd = set(_class_names(self.root / "train")) ^ set(_class_names(self.root / "val"))
        if odd:
            raise DataError(f"{self.root}: only one of train/ and val/ has the classes {', '.join(sorted(odd)[:5])}")
        self._train = _Images(self.root / "train", self.image_size, self.resize, (self.seed, self.min_scale))
        self._val = _Images(self.root / "val", self.image_size, self.resize)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        world_size, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        if self.batch_size % world_size or self.batch_size > len(self._train):
            raise ValueError(
                f"`batch_size` (={self.batch_size}) must be divisible by the {world_size} devices and at most the "
                f"number of training images (={len(self._train)})"
            )
        sampler = _EpochSampler(
            self._train,  # type: ignore[arg-type]
            num_replicas=world_size,
            rank=rank,
            seed=self.seed,
            drop_last=True,
        )
        return TrainingLoader(
            self._train, batch_size=self.batch_size // world_size, sampler=sampler, drop_last=True, **self._workers()
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches, in order; no image is counted twice under DDP."""
        world_size, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler = UnrepeatedDistributedSampler(self._val, world_size, rank, shuffle=False)
        size = max(1, self.eval_batch_size // world_size)
        return DataLoader(self._val, batch_size=size, sampler=sampler, **self._workers())

    def test_dataloader(self) -> DataLoader[Batch]:
        """The validation batches: ImageNet's test labels are not public."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The validation batches."""
        return self.val_dataloader()

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images, uint8 ``(N, H, W, C)``, into a network's input, float32 ``(N, C, H, W)``."""
        return normalize(images, self.mean, self.std)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Shift colours (in training alone) and normalise a batch on the device it was moved to."""
        images, labels, indices = batch
        trainer = self.trainer
        if trainer is not None and trainer.training and self.color:
            images = color_shift(images, random_words(~self.seed, trainer.current_epoch, indices), self.color)
        images = self.normalize(images)
        return (images if trainer is None else trainer.precision_plugin.convert_input(images)), labels

    def _workers(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "pin_memory": self.pin_memory and torch.cuda.is_available()}


def random_resized_box(height: int, width: int, min_scale: float, generator: torch.Generator) -> list[int]:
    """A random box of the image: a share of its area, 3:4 to 4:3, as torchvision's RandomResizedCrop draws them.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        min_scale: Smallest share of the area.
        generator: Draws the box.

    Returns:
        Top, left, height and width, in pixels; the centre where ten draws do not fit.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(10):
        area, ratio = height * width * uniform(min_scale, 1), math.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            return [top, int(torch.randint(width - w + 1, (), generator=generator)), h, w]
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


def color_shift(images: Tensor, words: Tensor, amount: float) -> Tensor:
    """Scale brightness, contrast and saturation of each image by factors of its own.

    Args:
        images: uint8 ``(N, H, W, C)``.
        words: Random words ``(N,)``, as `random_words` gives them.
        amount: Factors are uniform in ``[1 - amount, 1 + amount]``.

    Returns:
        uint8 ``(N, H, W, C)``.
    """
    bright, contrast, saturation = (
        (1 + amount * (2 * uniform_integers(words, field, _STEPS + 1).float() / _STEPS - 1))[:, None, None, None]
        for field in range(3)
    )
    pixels = images.float() * bright
    luma = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    pixels = torch.lerp(luma.mean((1, 2), keepdim=True), pixels, contrast)
    luma = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)
    return torch.lerp(luma.expand_as(pixels), pixels, saturation).round().clamp(0, 255).to(torch.uint8)


class _Images(Dataset[Batch]):
    """Images of a split, decoded one by one. ``training`` is the seed and smallest scale of the random boxes."""

    def __init__(self, folder: Path, size: int, resize: int, training: tuple[int, float] | None = None) -> None:
        from torchvision.datasets import ImageFolder

        try:
            self.samples: list[tuple[str, int]] = ImageFolder(str(folder)).samples
        except FileNotFoundError as error:
            raise DataError(f"{folder}: {error}") from None
        self.size, self.resize, self.training = size, resize, training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Batch:
        from PIL import Image, UnidentifiedImageError
        from torchvision.transforms.v2 import functional

        epoch, index = divmod(position, len(self))
        path, label = self.samples[index]
        try:
            with Image.open(path) as file:
                picture = functional.pil_to_tensor(file.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} cannot be decoded ({error}); mend or remove it") from None
        if self.training is None:
            picture = functional.center_crop(functional.resize(picture, [self.resize]), [self.size, self.size])
        else:
            seed, min_scale = self.training
            word = int(random_words(seed, epoch, torch.tensor(index)))
            generator = torch.Generator().manual_seed(word)
            box = random_resized_box(picture.shape[1], picture.shape[2], min_scale, generator)
            picture = functional.resized_crop(picture, *box, [self.size, self.size])
            if torch.rand((), generator=generator) < 0.5:
                picture = picture.flip(-1)
        return picture.permute(1, 2, 0).contiguous(), torch.tensor(label), torch.tensor(index)


class _EpochSampler(TrainingSampler):
    """Says with each index which epoch it is for, as ``epoch * len + index``: decoding processes do not know."""

    def __iter__(self) -> Iterator[Any]:
        for index in super().__iter__():
            yield index + self.epoch * len(self.dataset)  # type: ignore[arg-type]


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
