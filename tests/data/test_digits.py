"""DigitsDataModule: all of scikit-learn's digits, each in one split, always the same one."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from acnet_pl.data import DigitsDataModule


def everything(data: DigitsDataModule) -> tuple[Tensor, Tensor]:
    data.prepare_data()
    data.setup()
    sets = data.train_set, data.val_set, data.test_set
    return torch.cat([part.images for part in sets]), torch.cat([part.labels for part in sets])


def test_is_all_of_scikit_learns_digits() -> None:
    images, labels = everything(DigitsDataModule(image_size=8))
    assert images.shape == (1797, 8, 8, 3)
    ink = (images.double() * 16 / 255).round()
    assert torch.equal(ink[..., 0], ink[..., 1])
    assert torch.equal(ink[..., 0], ink[..., 2])
    digits = load_digits()
    expected = sorted((int(label), image.tobytes()) for image, label in zip(digits.images, digits.target, strict=True))
    got = sorted((int(label), image[..., 0].numpy().tobytes()) for image, label in zip(ink, labels, strict=True))
    assert got == expected


@pytest.mark.parametrize("size", [12, 32])
def test_enlarges_as_torchvision_does(size: int) -> None:
    small, large = DigitsDataModule(image_size=8), DigitsDataModule(image_size=size)
    (original, labels), (images, same_labels) = everything(small), everything(large)
    assert torch.equal(labels, same_labels)
    assert large.image_shape == (3, size, size)
    reference = TF.resize_image(original.permute(0, 3, 1, 2).float(), [size, size], antialias=False)
    assert (images.permute(0, 3, 1, 2) - reference).abs().max() < 1.1  # the original is rounded as well here


def test_split_is_stratified_and_does_not_depend_on_the_seed() -> None:
    first, second = DigitsDataModule(seed=0), DigitsDataModule(seed=1)
    first.setup()
    second.setup()
    for name, n in (("train_set", 1197), ("val_set", 300), ("test_set", 300)):
        part, other = getattr(first, name), getattr(second, name)
        assert len(part) == n
        assert torch.equal(part.images, other.images)
        share = torch.from_numpy(load_digits().target).bincount() * n / 1797
        assert (part.labels.bincount() - share).abs().max() <= 1.5


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_normalised_training_images_have_mean_0_and_deviation_1(size: int) -> None:
    data = DigitsDataModule(image_size=size)
    data.setup("fit")
    images = data.normalize(data.train_set.images)
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.02


def test_what_the_command_line_links_to_is_known_at_once() -> None:
    data = DigitsDataModule()
    assert (data.num_classes, data.class_names[9], data.image_shape) == (10, "9", (3, 32, 32))


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`image_size` \(=10000\) must be .* at most 512"):
        DigitsDataModule(image_size=10000)
    with pytest.raises(ValueError, match=r"`image_size` \(=7\) must be at least 8"):
        DigitsDataModule(image_size=7)
