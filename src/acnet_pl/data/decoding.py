"""Decode image files to RGB pixels, on the CPU or by nvJPEG on a GPU."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

__all__ = ["UnreadableImageError", "decode", "decode_all", "jpeg_frame", "rgb_pixels", "value_range"]

_DEPRECATED = "The image decoding and encoding capabilities of TorchVision are deprecated"
_MOST_PIXELS = 178_956_970  # what Pillow refuses as a decompression bomb; ImageNet's largest has 61 million
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman
_ORIENTATION = 0x0112  # the EXIF tag
_DEEPEST = 65_535  # of 16 bits
_WITHOUT_LENGTH = frozenset({0x01, 0xFF, *range(0xD0, 0xD9)})


class UnreadableImageError(ValueError):
    """Bytes that are no image, or a damaged one."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress, within this context, torchvision's warning that its nvJPEG decoder moves to another package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_DEPRECATED, category=DeprecationWarning)
        yield


def decode(encoded: Tensor, upright: bool = False) -> Tensor:
    """Decode one image to RGB as ``PIL.Image.open(file).convert("RGB")`` does, except grey images of more than 8 bits.

    Those are scaled: 16-bit values by 65,535 and floating-point values by 1, where Pillow clips them to white.
    JPEGs are decoded by libjpeg-turbo straight into a tensor; whatever it refuses, and every other format (ImageNet has
    a PNG among its files), by Pillow.

    Args:
        encoded: uint8 ``(bytes,)``, the content of the file, on the CPU.
        upright: Turn and mirror the image as its EXIF orientation says; cameras store photos as the sensor was held.

    Returns:
        uint8 ``(3, H, W)`` in channels-last memory.

    Raises:
        UnreadableImageError: It cannot be decoded, its header asks for more pixels than any photograph has, or it has
            grey values that are neither 16-bit nor from 0 to 1.
    """
    import simplejpeg

    if _is_jpeg(encoded):
        content = encoded.numpy()
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            _check_size(height, width)
            if colours in ("Gray", "YCbCr", "RGB"):
                image = torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB")).permute(2, 0, 1)
                return _turned(image, _orientation(encoded)) if upright else image
        except UnreadableImageError:
            raise
        except ValueError:
            pass  # damaged, or of a kind that Pillow alone knows
    return _decode_by_pillow(encoded, upright)


def value_range(encoded: Tensor) -> tuple[float, float] | None:
    """Return the lowest and highest value of a grey image of more than 8 bits; None of all other images.

    Args:
        encoded: uint8 ``(bytes,)``, the content of a file that `decode` decodes.
    """
    if _is_jpeg(encoded):
        return None
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(encoded.numpy().tobytes())) as image:
        if not _is_deep(image.mode):
            return None
        pixels = np.asarray(image)
    return float(pixels.min()), float(pixels.max())


def rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of a Pillow image, uint8 ``(H, W, 3)``, scaled as `decode` says.

    Raises:
        UnreadableImageError: It has grey values of more than 8 bits that are neither 16-bit nor from 0 to 1.
    """
    import numpy as np

    return _scaled(np.asarray(image)) if _is_deep(image.mode) else np.array(image.convert("RGB"))


def decode_all(
    encoded: Sequence[Tensor], device: torch.device, upright: bool = False
) -> Iterator[Tensor | UnreadableImageError]:
    """Decode many images: on a GPU all its JPEGs in one call of nvJPEG, on the CPU each when it is asked for.

    Args:
        encoded: uint8 ``(bytes,)`` each, on the CPU.
        device: Where the pixels are wanted.
        upright: See `decode`.

    Yields:
        For each image uint8 ``(3, H, W)`` on the device, or the error.
    """
    ready: dict[int, Tensor] = {}
    failure: RuntimeError | None = None
    if device.type == "cuda":
        # nvJPEG knows grey and YCbCr. One damaged file fails a whole call: then the CPU finds it.
        frames = map(jpeg_frame, encoded)
        chosen = [n for n, (height, width, colours) in enumerate(frames) if colours in (1, 3) and _fits(height, width)]
        try:
            ready = dict(zip(chosen, _decode_by_nvjpeg([encoded[p] for p in chosen], device), strict=True))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            failure = error
    for position, content in enumerate(encoded):
        try:
            if position in ready:
                image = ready.pop(position)
                yield _turned(image, _orientation(content)) if upright else image
            else:
                yield decode(content, upright).to(device)
        except UnreadableImageError as error:
            failure = None
            yield error
    if failure is not None:
        warnings.warn(
            f"nvJPEG failed where the CPU did not ({failure}): these images were decoded by the training process, one "
            "after another. If it happens often, set decode=cpu, which decodes in the worker processes",
            stacklevel=2,
        )


def jpeg_frame(encoded: Tensor) -> tuple[int, int, int]:
    """Return height, width and colour components (1 grey, 3 colour, 4 CMYK) of a JPEG; zeros for other bytes.

    Examples:
        >>> jpeg_frame(torch.zeros(100, dtype=torch.uint8))
        (0, 0, 0)
    """
    if not _is_jpeg(encoded):
        return 0, 0, 0
    content = encoded.numpy()
    position = 2
    while position + 9 < len(content):
        marker = int(content[position + 1])
        if content[position] != 0xFF:
            return 0, 0, 0
        if marker in _FRAME_HEADERS:
            height, width = (256 * int(content[n]) + int(content[n + 1]) for n in (position + 5, position + 7))
            return height, width, int(content[position + 9])
        length = 0 if marker in _WITHOUT_LENGTH else 256 * int(content[position + 2]) + int(content[position + 3])
        position += length + (1 if marker == 0xFF else 2)
    return 0, 0, 0


def _decode_by_nvjpeg(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    with _quiet():
        images: list[Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device) if encoded else []
    return images


def _fits(height: int, width: int) -> bool:
    return height * width <= _MOST_PIXELS


def _check_size(height: int, width: int) -> None:
    if not _fits(height, width):
        raise UnreadableImageError(f"its header says {height}×{width} pixels, more than {_MOST_PIXELS:,} in all")


def _decode_by_pillow(encoded: Tensor, upright: bool) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded.numpy().tobytes())) as image:
            _check_size(image.height, image.width)
            pixels = rgb_pixels(ImageOps.exif_transpose(image) if upright else image)
    except UnidentifiedImageError:
        what = (
            "it is empty or cannot be opened"
            if not len(encoded)
            else "it is no image, or of a format that Pillow cannot read"
        )
        raise UnreadableImageError(what) from None
    except Exception as error:  # a decoder may fail in any way on a damaged file
        raise UnreadableImageError(str(error) or type(error).__name__) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _is_deep(mode: str) -> bool:
    """Return True if one of Pillow's modes is grey of more than 8 bits."""
    return mode == "F" or mode.startswith("I")


def _scaled(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale grey values ``(H, W)`` of more than 8 bits to uint8 ``(H, W, 3)``."""
    import numpy as np

    most = 1 if pixels.dtype.kind == "f" else _DEEPEST
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= most):  # NaN is neither
        raise UnreadableImageError(
            f"its grey values are from {low:g} to {high:g}, expected 0 to {most:,}; save it with 8 bits"
        )
    grey = np.rint(pixels.astype(np.float64) * (255 / most)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _orientation(encoded: Tensor) -> int:
    """Return the EXIF orientation of an image file; 1 if it has none."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded.numpy().tobytes())) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata of an image that is whole
        return 1
    return found if isinstance(found, int) else 1


def _turned(image: Tensor, orientation: int) -> Tensor:
    """Turn and mirror an image ``(C, H, W)`` as its EXIF orientation, 2 to 8, says."""
    if orientation in (5, 6, 7, 8):  # rows and columns are exchanged
        image = image.transpose(1, 2)
    mirrored = [dim for dim, which in ((2, (2, 3, 6, 7)), (1, (3, 4, 7, 8))) if orientation in which]
    return image.flip(mirrored) if mirrored else image


def _is_jpeg(encoded: Tensor) -> bool:
    return encoded[:3].tolist() == [0xFF, 0xD8, 0xFF]
