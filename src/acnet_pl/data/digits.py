"""DigitsDataModule: scikit-learn's handwritten digits, without files or network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from acnet_pl.data.images import InMemoryImages, stratified_order
from acnet_pl.data.in_memory import InMemoryDataModule

__all__ = ["DigitsDataModule"]

_SPLIT_SEED = 0
_TRAIN, _VAL = 1197, 300
_LARGEST = 512  # all 1,797 digits are enlarged in memory: 1.4 GB then


class DigitsDataModule(InMemoryDataModule):
    """1,797 real handwritten digits of 8×8 pixels, enlarged; they come with scikit-learn.

    The split is stratified and always the same: 1,197 images to train on, 300 to validate and 300 to test.

    Args:
        image_size: Height and width after bilinear enlargement, at least 8.
        batch_size: Images in a training batch over all devices together: each gets its equal part.
        eval_batch_size: Images in an evaluation batch over all devices together.
        seed: Of the order and the augmentation of the training images; None is that of Lightning's seed_everything.
        pad: Black pixels added on each side before the random crop. 0 is no cropping.
        flip: Flip half of the training images left-right; digits have a right way round.
        drop_last: Leave out what remains of an epoch after the last whole batch.
        pin_memory: Copy batches through pinned memory where there is a CUDA device.

    Examples:
        >>> data = DigitsDataModule(image_size=16, batch_size=32)
        >>> data.setup("fit")
        >>> images, labels, indices = next(iter(data.train_dataloader()))
        >>> images.shape, data.normalize(images).shape
        (torch.Size([32, 16, 16, 3]), torch.Size([32, 3, 16, 16]))
    """

    num_classes = 10
    mean = (0.304, 0.304, 0.304)
    std = (0.323, 0.323, 0.323)

    def __init__(
        self,
        image_size: int = 32,
        batch_size: int = 64,
        eval_batch_size: int = 300,
        seed: int | None = None,
        pad: int = 2,
        flip: bool = False,
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
        if not 8 <= image_size <= _LARGEST:
            raise ValueError(
                f"`image_size` (={image_size}) must be at least 8, the size of the digits as scanned, and at most "
                f"{_LARGEST}"
            )
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.class_names = [str(digit) for digit in range(10)]

    def load_training_sets(self) -> tuple[InMemoryImages, InMemoryImages]:
        """Return the first 1,497 images of the stratified order, split into training and validation."""
        digits, order = self._digits()
        return digits.subset(order[:_TRAIN]), digits.subset(order[_TRAIN : _TRAIN + _VAL])

    def load_test_set(self) -> InMemoryImages:
        """Return the last 300 images of the stratified order."""
        digits, order = self._digits()
        return digits.subset(order[_TRAIN + _VAL :])

    def _digits(self) -> tuple[InMemoryImages, Tensor]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        ink = torch.from_numpy(digits.images).to(torch.float32)[:, None] / 16  # 17 levels, 0 to 16
        ink = F.interpolate(ink, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        images = (255 * ink).round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3)
        labels = torch.from_numpy(digits.target).to(torch.int64)
        return InMemoryImages(images, labels), stratified_order(labels, _SPLIT_SEED)
