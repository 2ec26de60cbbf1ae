"""Cut decoded images to the size that networks take: random boxes in training, the centre in evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Box", "center_crop", "random_resized_box", "resized_crop"]

_MOST_ELONGATED = 64  # sides of an image that is scaled whole; of a longer one the middle, which holds what is cut out

Box = tuple[int, int, int, int]


def random_resized_box(height: int, width: int, min_scale: float, uniforms: Iterator[float]) -> Box:
    """Draw a box of the image by area and aspect ratio (3:4 to 4:3), as torchvision's RandomResizedCrop does.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        min_scale: Smallest share of the area.
        uniforms: Numbers in ``[0, 1)``; two to twenty-two are taken.

    Returns:
        Top, left, height and width, in pixels; the centre where ten draws do not fit.
    """
    log_ratio = math.log(4 / 3)
    for _ in range(10):
        area = height * width * (min_scale + (1 - min_scale) * next(uniforms))
        ratio = math.exp(log_ratio * (2 * next(uniforms) - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(next(uniforms) * (height - h + 1)), int(next(uniforms) * (width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(image: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box of the image and scale it, bilinearly and antialiased, as torchvision's resized_crop does.

    Args:
        image: uint8 ``(3, H, W)``, fastest in channels-last memory, which the JPEG decoder gives.
        box: Top, left, height and width, in pixels.
        size: Height and width of the result.

    Returns:
        uint8 ``(3, size, size)``.
    """
    top, left, height, width = box
    return _resize(image[:, top : top + height, left : left + width], (size, size))


def center_crop(image: Tensor, resize: int, size: int) -> Tensor:
    """Scale the shorter side to ``resize`` and cut the centre, as torchvision's Resize and CenterCrop do.

    Args:
        image: uint8 ``(3, H, W)``.
        resize: The shorter side, in pixels; at least ``size``.
        size: Height and width of the result.

    Returns:
        uint8 ``(3, size, size)``.
    """
    height, width = image.shape[1:]
    short = min(height, width)
    if max(height, width) > _MOST_ELONGATED * short:
        top, left = (max(side - _MOST_ELONGATED * short, 0) // 2 for side in (height, width))
        image = image[:, top : top + _MOST_ELONGATED * short, left : left + _MOST_ELONGATED * short]
        height, width = image.shape[1:]
    scaled = _resize(image, (resize * height // short, resize * width // short))
    top, left = (round((side - size) / 2) for side in scaled.shape[1:])
    return scaled[:, top : top + size, left : left + size]


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    # From channels-last memory the uint8 kernel neither unpacks its input nor transposes its output. A slice is no such
    # memory; copying it costs less than what it saves.
    batch = image[None].contiguous(memory_format=torch.channels_last)
    if batch.device.type == "cpu":
        return F.interpolate(batch, size, mode="bilinear", antialias=True)[0]
    scaled = F.interpolate(batch.float(), size, mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)[0]
