"""ImageFolderDataModule: your own photos, one folder per class."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning.utilities import rank_zero_info

from acnet_pl.data.class_folders import FileSplit
from acnet_pl.data.encoded_data_module import Decoder, EncodedDataModule, SplitName
from acnet_pl.data.photo_folders import PhotoFolders

__all__ = ["ImageFolderDataModule"]


class ImageFolderDataModule(EncodedDataModule):
    """Your own photos: ``root/<class>/*``, split here; or ``root/{train,val}/<class>/*``, and test/ if you have it.

    Photos of any size and of the usual formats, at any depth in their class folder. Training cuts random boxes, flips
    left-right and shifts colours; evaluation is a centre crop. Without a folder ``test`` the validation photos are the
    test photos.

    Args:
        root: The folder of the class folders, or of train/ and val/.
        val_size: Share of each class's photos that validate, where there is no folder val; about, as each photo's name
            decides for it alone. 1 evaluates on all.
        split_seed: Other numbers choose other photos to validate on; the seed of the run does not.
        classes: Names of the class folders in the order of the labels, some of which may be missing; null is the
            folders that there are, sorted.
        image_size: Height and width that networks are given.
        resize: Shorter side before the centre crop of evaluation; null is 256/224 of image_size.
        batch_size: Photos in a training batch over all devices together; all of them where there are fewer.
        eval_batch_size: Photos in an evaluation batch over all devices together.
        seed: Of the order and the augmentation; None is that of Lightning's seed_everything.
        min_scale: Smallest share of the photo's area that a random box has.
        color: Largest relative shift of brightness, contrast and saturation, 0 to 1. 0 is none.
        flip: Flip half of the training photos left-right; false for what has a right way round, such as text.
        exif: Turn photos upright as the camera noted.
        num_workers: Processes that read and decode, for each device; at most one per core.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.
        decode: "cpu" decodes in the worker processes, "gpu" on the training device (nvJPEG).
        skip_unreadable: Number of unreadable files put up with in each split, with a warning for each.

    Attributes:
        class_names: The names of the class folders, in the order of the labels.
        batch_indices: Which photos the last batch held, by their position in their set; on the device.

    Raises:
        ValueError: An argument is out of its range.
        DataError: There is no such folder, or its folders are not two or more classes; on ``setup``: a class has no
            photo, or there are too few to validate.
    """

    def __init__(
        self,
        root: str | Path,
        val_size: float = 0.2,
        split_seed: int = 0,
        classes: list[str] | None = None,
        image_size: int = 224,
        resize: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        seed: int | None = None,
        min_scale: float = 0.3,
        color: float = 0.2,
        flip: bool = True,
        exif: bool = True,
        num_workers: int = 4,
        pin_memory: bool = True,
        decode: Decoder = "cpu",
        skip_unreadable: int = 0,
    ) -> None:
        super().__init__(
            image_size=image_size,
            resize=round(image_size * 256 / 224) if resize is None else resize,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            min_scale=min_scale,
            color=color,
            flip=flip,
            exif=exif,
            num_workers=num_workers,
            pin_memory=pin_memory,
            decode=decode,
            skip_unreadable=skip_unreadable,
        )
        if not 0 <= val_size <= 1:
            raise ValueError(f"`val_size` (={val_size:g}) must be from 0 to 1, the share of each class that validates")
        if classes is not None and len({*classes}) != len(classes):
            raise ValueError(f"`classes` (={classes}) must be different names")
        self.root = Path(root).expanduser()
        self.folders = PhotoFolders(self.root, val_size, split_seed, classes)
        self.class_names = self.folders.class_names
        self.num_classes = len(self.class_names)
        self.validates_on_test_images = not self.folders.has_test

    def find_split(self, name: SplitName) -> FileSplit:
        """List the photos of a split, and say how many there are."""
        found = self.folders.split(name)
        use = {"train": "to train on", "val": "to validate on", "test": "to test on"}[name]
        if name == "val" and self.validates_on_test_images:
            use += ", and to test on"
        classes = len({*found.labels.tolist()})
        of = f"{classes}" if classes == self.num_classes else f"{classes} of the {self.num_classes}"
        rank_zero_info(f"{len(found):,} photos of {of} classes {use}, from {found.folder}")
        return found

    def setup(self, stage: str | None = None) -> None:
        """List the photos of the stage, once; the batch size is limited to their number.

        Raises:
            DataError: See the class.
        """
        super().setup(stage)
        if "train" in self._sets and self.batch_size > len(self.train_set):
            world_size = self._processes()[0]
            self.batch_size = max(len(self.train_set) // world_size, 1) * world_size
