"""Data sets as LightningDataModules, each in its own file, and the batched augmentation they share."""

from acnet_pl.data.cifar import CIFARDataModule
from acnet_pl.data.digits import DigitsDataModule
from acnet_pl.data.errors import DataError
from acnet_pl.data.image_folder import ImageFolderDataModule
from acnet_pl.data.imagenet import ImageNetDataModule
from acnet_pl.data.images import InMemoryImages
from acnet_pl.data.in_memory import InMemoryDataModule

__all__ = [
    "CIFARDataModule",
    "DataError",
    "DigitsDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "InMemoryDataModule",
    "InMemoryImages",
]
