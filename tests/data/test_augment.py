"""The batched augmentation against torchvision's per-image functions."""

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import transforms

from acnet_pl.data.augment import augment, normalize, pad_crop_flip


def draw(n: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, height, width, channels), generator=generator, dtype=torch.uint8)


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_pad_crop_flip_is_torchvisions(data: st.DataObject) -> None:
    n, height, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    channels, pad = data.draw(st.sampled_from([1, 3])), data.draw(st.integers(0, 6))
    offsets = st.lists(st.integers(0, 2 * pad), min_size=n, max_size=n)
    tops, lefts = data.draw(offsets), data.draw(offsets)
    flipped = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    images = draw(n, height, width, channels)
    got = pad_crop_flip(images, pad, torch.tensor(tops), torch.tensor(lefts), torch.tensor(flipped))
    for i in range(n):
        expected = TF.crop(TF.pad(images[i].permute(2, 0, 1), [pad]), tops[i], lefts[i], height, width)
        expected = TF.horizontal_flip(expected) if flipped[i] else expected
        assert torch.equal(got[i], expected.permute(1, 2, 0))


@pytest.mark.parametrize("pad", [0, 4])
def test_accepts_images_of_any_strides(pad: int) -> None:
    images = draw(4).permute(0, 2, 1, 3)
    offsets, flipped = torch.tensor([0, 3, 8, 4]).clamp(max=2 * pad), torch.tensor([True, False, True, False])
    expected = pad_crop_flip(images.contiguous(), pad, offsets, offsets, flipped)
    assert torch.equal(pad_crop_flip(images, pad, offsets, offsets, flipped), expected)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 10), st.integers(0, 10), st.lists(st.integers(1, 20), min_size=1, max_size=6), st.randoms())
def test_does_not_depend_on_the_batch(seed: int, epoch: int, sizes: list[int], random: object) -> None:
    n = sum(sizes)
    images, order = draw(n, 6, 5), torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    whole = augment(images, torch.arange(n), seed=seed, epoch=epoch, pad=2, flip=True)
    for part in torch.split(order, sizes):
        assert torch.equal(augment(images[part], part, seed=seed, epoch=epoch, pad=2, flip=True), whole[part])


def test_every_window_and_mirror_image_is_as_probable() -> None:
    # Each pixel of the original has a value of its own, so the crop tells where it was cut.
    n, pad, size = 16_200, 1, 4
    image = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, size, size, 1)
    got = augment(image.expand(n, -1, -1, -1), torch.arange(n), seed=1, epoch=2, pad=pad, flip=True)
    views, counts = got.flatten(1).unique(dim=0, return_counts=True)  # type: ignore[no-untyped-call]
    assert len(views) == 3 * 3 * 2
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("changed", ["seed", "epoch"])
def test_seed_and_epoch_change_the_draw(changed: str) -> None:
    images, indices = draw(200), torch.arange(200)
    first = augment(images, indices, **{"seed": 0, "epoch": 0, "pad": 4, "flip": True})  # type: ignore[arg-type]
    other = augment(images, indices, **{"seed": 0, "epoch": 0, "pad": 4, "flip": True, changed: 1})  # type: ignore[arg-type]
    same = (first == other).flatten(1).all(1).sum().item()
    assert same <= 10  # 200 / (9 · 9 · 2) is to be expected


@pytest.mark.gpu
def test_device_does_not_matter() -> None:
    images, indices, scale = draw(300), torch.arange(300), (0.5, 0.4, 0.3)
    got = augment(images.cuda(), indices.cuda(), seed=3, epoch=4, pad=4, flip=True)
    assert torch.equal(got.cpu(), augment(images, indices, seed=3, epoch=4, pad=4, flip=True))
    torch.testing.assert_close(normalize(got, scale, scale).cpu(), normalize(got.cpu(), scale, scale))


def test_nothing_to_do_changes_nothing() -> None:
    images = draw(8)
    assert torch.equal(augment(images, torch.arange(8), seed=0, epoch=0, pad=0, flip=False), images)


def test_without_flip_every_image_is_a_window() -> None:
    images = draw(64, 8, 8)
    got = augment(images, torch.arange(64), seed=0, epoch=0, pad=1, flip=False)
    windows = torch.nn.functional.pad(images, (0, 0, 1, 1, 1, 1)).unfold(1, 8, 1).unfold(2, 8, 1)
    matches = (windows.permute(0, 1, 2, 4, 5, 3) == got[:, None, None]).flatten(3).all(3).flatten(1).sum(1)
    assert torch.equal(matches, torch.ones(64, dtype=torch.int64))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_normalize_is_torchvisions(n: int) -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    images = draw(n, 9, 5)
    got = normalize(images, mean, std)
    assert got.shape == (n, 3, 9, 5)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    for i in range(n):
        torch.testing.assert_close(got[i], reference(np.asarray(images[i])), rtol=0, atol=1e-6)


def test_inputs_are_left_as_they_were() -> None:
    images = draw(5)
    before = images.clone()
    normalize(augment(images, torch.arange(5), seed=0, epoch=0, pad=4, flip=True), (0.5,) * 3, (0.5,) * 3)
    normalize(images, (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(images, before)
