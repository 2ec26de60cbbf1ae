"""ImageNetDataModule: class folders or LitData shards of images, decoded on demand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from acnet_pl.data.class_folders import ClassFolders
from acnet_pl.data.encoded_data_module import Decoder, EncodedDataModule, SplitName
from acnet_pl.data.encoded_images import Split
from acnet_pl.data.shard_order import BLOCK, LANES, ShardPrefetcher, shard_order
from acnet_pl.data.shards import ShardedImages, ShardSplit
from acnet_pl.data.training_loader import EpochSampler

__all__ = ["ImageNetDataModule"]


class ImageNetDataModule(EncodedDataModule):
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
        exif: Turn images as their EXIF orientation says; results on ImageNet are those of images as they are stored.
        num_workers: Processes that read and decode, for each device; at most one per core.
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

    Examples:
        >>> data = ImageNetDataModule("s3-or-local-folder", image_size=224, decode="gpu")
        >>> data.num_classes, data.image_shape
        (1000, (3, 224, 224))
    """

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
        exif: bool = False,
        num_workers: int = 8,
        pin_memory: bool = True,
        decode: Decoder = "cpu",
        skip_unreadable: int = 0,
        cache_dir: str | None = None,
        cache_gb: float = 100.0,
    ) -> None:
        super().__init__(
            image_size=image_size,
            resize=resize,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            min_scale=min_scale,
            color=color,
            flip=True,
            exif=exif,
            num_workers=num_workers,
            pin_memory=pin_memory,
            decode=decode,
            skip_unreadable=skip_unreadable,
        )
        self.root = str(root) if "://" in str(root) else Path(root).expanduser()
        shards = ShardedImages(str(self.root), cache_dir, cache_gb)
        self._source = shards if shards.are_there() else ClassFolders(Path(self.root))
        # Known before anything else is read, because networks are built for them.
        self.class_names = self._source.class_names
        self.num_classes = len(self.class_names) or 1000
        self._prefetcher: ShardPrefetcher | None = None

    def find_split(self, name: SplitName) -> Split:
        """List the images of "train" or "val"."""
        return self._source.split(name)

    def teardown(self, stage: str | None = None) -> None:
        """Stop fetching shards."""
        if self._prefetcher is not None:
            self._prefetcher.stop()
            self._prefetcher = None

    def training_order(self, split: Split) -> Callable[[int], Tensor] | None:
        """Return an order for sharded data that needs few shards at a time; None for other data."""
        if not isinstance(split, ShardSplit):
            return None
        sizes = [shard.items for shard in split.shards]
        return lambda epoch: shard_order(sizes, self.seed, epoch)

    def fetch_ahead(self, split: Split, sampler: EpochSampler, world_size: int) -> ShardPrefetcher | None:
        """Fetch remote shards while earlier batches are trained on."""
        if isinstance(split, ShardSplit) and split.store.remote:
            self._prefetcher = ShardPrefetcher(split, sampler.share, BLOCK * max(1, LANES // world_size))
        return self._prefetcher
