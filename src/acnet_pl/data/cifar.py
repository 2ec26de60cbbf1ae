"""CIFARDataModule: CIFAR-10 and CIFAR-100 from the official python batches or from folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pytorch_lightning.utilities import rank_zero_info

from acnet_pl.data.cifar_batches import CIFARBatches, Dataset
from acnet_pl.data.cifar_folders import CIFARFolders
from acnet_pl.data.images import InMemoryImages, stratified_order
from acnet_pl.data.in_memory import InMemoryDataModule

__all__ = ["CIFARDataModule"]

Layout = Literal["auto", "python", "folder"]

_SIZE = (32, 32)
_MEAN_STD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_CLASS_NAMES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """,
}


class CIFARDataModule(InMemoryDataModule):
    """CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 32×32 pixels (Sect. 4.1).

    Two layouts are read: the official python batches (``root/cifar-10-batches-py`` or ``root/cifar-100-python``), each
    file verified by its published MD5 sum, and folders of images (``root/{train,test}/<class>/*.png``, or jpg).
    Nothing that is loaded can execute code.

    Args:
        dataset: "cifar10" or "cifar100".
        root: The folder that holds the batches' folder, or ``train`` and ``test``.
        layout: "python", "folder", or "auto": whichever is there, the batches if both are.
        val_size: Images split off the training images for validation, stratified by class. 0 is the article's
            protocol: train on all 50,000. Validation then runs on the *test* images, so nothing may be selected by it.
        split_seed: Decides which images are split off. Apart from ``seed``, so that runs of several seeds compare.
        verify: Compare the batches with the published MD5 sums. False is for a copy of your own in the same format.
        download: Fetch the official batches where they are missing. Without it, no network is touched.
        batch_size: Images in a training batch over all devices together: each gets its equal part.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation of the training images; None is that of Lightning's seed_everything.
        pad: Black pixels added on each side before the random crop; the article pads to 40×40.
        flip: Flip half of the training images left-right.
        drop_last: Leave out what remains of an epoch after the last whole batch.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.

    Attributes:
        class_names: The published names; once a folder layout is loaded, the names of its folders.

    Raises:
        ValueError: An argument is out of its range.
        DataError: On ``prepare_data`` and ``setup``: what is on disk is not the data set; the message says what to do.

    Examples:
        >>> data = CIFARDataModule("cifar100", root="data", val_size=0)
        >>> data.num_classes, data.class_names[:2], data.image_shape
        (100, ['apple', 'aquarium_fish'], (3, 32, 32))
    """

    image_shape = (3, *_SIZE)

    def __init__(
        self,
        dataset: Dataset = "cifar10",
        root: str | Path = "data",
        layout: Layout = "auto",
        val_size: int = 5000,
        split_seed: int = 0,
        verify: bool = True,
        download: bool = False,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        seed: int | None = None,
        pad: int = 4,
        flip: bool = True,
        drop_last: bool = True,
        pin_memory: bool = True,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            pad=pad,
            flip=flip,
            drop_last=drop_last,
            pin_memory=pin_memory,
        )
        for name, value, choices in (("dataset", dataset, get_args(Dataset)), ("layout", layout, get_args(Layout))):
            if value not in choices:
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, choices))}")
        if val_size < 0:
            raise ValueError(f"`val_size` (={val_size}) must be at least 0; 0 trains on all images")
        if download and layout == "folder":
            raise ValueError("`download` fetches the official batches, which `layout` (='folder') does not read")
        self.dataset = dataset
        self.root = Path(root).expanduser()
        self.layout = layout
        self.val_size = val_size
        self.split_seed = split_seed
        self.download = download
        self.class_names = _CLASS_NAMES[dataset].split()
        self.num_classes = len(self.class_names)
        self.mean, self.std = _MEAN_STD[dataset]
        self._batches = CIFARBatches(dataset, self.root, self.class_names, verify)
        self._folders = CIFARFolders(self.root, self.num_classes, _SIZE)

    def prepare_data(self) -> None:
        """Download missing files if asked to, and check the data set. Runs in one process per machine."""
        source = self._source()
        if self.download and source is self._batches and self._batches.missing_files():
            self._batches.download()
        source.check()

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, and take over the class names of a folder layout."""
        source = self._source()
        source.check()
        super().setup(stage)
        self.class_names = source.class_names

    def load_training_sets(self) -> tuple[InMemoryImages, InMemoryImages]:
        """Return the training images without the validation images, and the validation images."""
        images = self._source().read("train")
        if self.val_size == 0:
            rank_zero_info(
                f"val_size is 0: training on all {len(images):,} training images of {self.dataset}; validation runs on "
                "the test images, so select nothing by it"
            )
            return images, self.load_test_set()
        if self.val_size >= len(images):
            raise ValueError(
                f"`val_size` (={self.val_size}) must be less than the number of training images (={len(images)})"
            )
        order = stratified_order(images.labels, self.split_seed)
        val, train = order[: self.val_size].sort().values, order[self.val_size :].sort().values
        return images.subset(train), images.subset(val)

    def load_test_set(self) -> InMemoryImages:
        """Return the test images."""
        return self._source().read("test")

    def _source(self) -> CIFARBatches | CIFARFolders:
        if self.layout == "auto":
            folders = self._folders.are_there() and not self._batches.folder.is_dir()
        else:
            folders = self.layout == "folder"
        return self._folders if folders else self._batches
