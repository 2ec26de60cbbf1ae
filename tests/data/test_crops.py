"""Boxes and resizing against torchvision and Pillow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional

from acnet_pl.data.crops import center_crop, random_resized_box, resized_crop
from acnet_pl.data.random_words import random_words, uniform_stream

Draw = Callable[[int, int, int], npt.NDArray[np.uint8]]


def as_tensor(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (40, 200)])
@pytest.mark.parametrize("min_scale", [0.08, 0.5])
def test_boxes_have_the_distribution_of_torchvisions(height: int, width: int, min_scale: float) -> None:
    n = 4000
    words = random_words(3, 1, torch.arange(n)).tolist()
    boxes = [random_resized_box(height, width, min_scale, uniform_stream(word)) for word in words]
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(image, [min_scale, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    for name, statistic in {
        "area": lambda box: box[2] * box[3],
        "aspect": lambda box: box[3] / box[2],
        "centre row": lambda box: box[0] + box[2] / 2,
        "centre column": lambda box: box[1] + box[3] / 2,
        "top": lambda box: box[0],
        "left": lambda box: box[1],
    }.items():
        p = ks_2samp([statistic(box) for box in boxes], [statistic(box) for box in theirs]).pvalue
        assert p > 0.001, f"{name}: p = {p}"
    for top, left, h, w in boxes:
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert h > 0
        assert w > 0


def test_an_image_that_no_box_fits_is_cut_at_the_centre_as_torchvision_does() -> None:
    # Ten draws of 3:4 to 4:3 and at least 90 % of the area fit neither a strip nor a column.
    for height, width in ((10, 400), (400, 10)):
        theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
        assert random_resized_box(height, width, 0.9, uniform_stream(0)) == theirs


@pytest.mark.parametrize("box", [(0, 0, 375, 500), (37, 50, 300, 400), (5, 7, 100, 90), (200, 100, 33, 41)])
def test_a_resized_crop_is_torchvisions(box: tuple[int, int, int, int], natural_image: Draw) -> None:
    image = as_tensor(natural_image(0, 375, 500))
    expected = functional.resized_crop(image, *box, size=[224, 224], antialias=True)
    assert torch.equal(resized_crop(image, box, 224), expected)
    assert torch.equal(resized_crop(image.contiguous(), box, 224), expected)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (256, 256), (60, 41)])
def test_a_centre_crop_is_torchvisions(height: int, width: int, natural_image: Draw) -> None:
    image = as_tensor(natural_image(0, height, width))
    expected = v2.CenterCrop(224)(v2.Resize(256)(image))
    assert torch.equal(center_crop(image, 256, 224), expected)


@pytest.mark.parametrize("upright", [False, True])
def test_a_strip_is_not_scaled_whole(upright: bool, natural_image: Draw) -> None:
    """Scaled whole, two million pixels in one row would be two billion."""
    middle = as_tensor(natural_image(0, 1, 200))
    strip = torch.zeros(3, 1, 2_000_000, dtype=torch.uint8)
    strip[:, :, 999_900:1_000_100] = middle
    expected = v2.CenterCrop(24)(v2.Resize(32)(middle))
    found = center_crop(strip.mT if upright else strip, 32, 24)
    assert torch.equal(found.mT if upright else found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_resized_crop_is_pillows_to_a_tenth_of_a_grey_level(seed: int, natural_image: Draw) -> None:
    pixels = natural_image(seed, 375, 500)
    box = random_resized_box(375, 500, 0.08, uniform_stream(seed))
    top, left, h, w = box
    pillow = Image.fromarray(pixels).crop((left, top, left + w, top + h)).resize((224, 224), Image.Resampling.BILINEAR)
    difference = (resized_crop(as_tensor(pixels), box, 224).int() - as_tensor(np.array(pillow)).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.1


@pytest.mark.gpu
def test_a_gpu_cuts_as_the_cpu_does(natural_image: Draw) -> None:
    image = as_tensor(natural_image(0, 375, 500))
    on_gpu = resized_crop(image.cuda(), (37, 50, 300, 400), 224).cpu()
    assert (on_gpu.int() - resized_crop(image, (37, 50, 300, 400), 224).int()).abs().max() <= 1
