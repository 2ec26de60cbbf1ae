"""Trees of class folders as ImageNet is distributed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image


def smooth_image(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """An image with a 1/f spectrum, as natural ones have: resizing and compressing it loses what it would of those."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectra = (rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))) / frequency
    field = np.fft.irfft2(spectra, (height, width))
    field = (field + 2 * field.mean(0)) / field.std()
    pixels: npt.NDArray[np.uint8] = np.clip(128 + 30 * field, 0, 255).astype(np.uint8)
    return pixels.transpose(1, 2, 0)


@pytest.fixture(scope="session")
def natural_image() -> Callable[[int, int, int], npt.NDArray[np.uint8]]:
    """``natural_image(seed, height, width)``, uint8 ``(H, W, 3)``."""
    return smooth_image


@pytest.fixture(scope="session")
def write_image_tree() -> Callable[..., Path]:
    """``write_image_tree(root, train=4, val=2, classes=3)``: JPEGs of about 50×50 pixels in class folders."""

    def write(root: Path, train: int = 4, val: int = 2, classes: int = 3) -> Path:
        for split, count in (("train", train), ("val", val)):
            for number in range(classes):
                folder = root / split / f"n{number:02}"
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = smooth_image(1000 * number + index, 40 + 2 * (index % 9), 60 - 3 * (index % 7))
                    Image.fromarray(pixels).save(folder / f"{index:03}.JPEG", quality=92)
        return root

    return write
