"""From the bytes of an image file to RGB pixels, on the CPU or by nvJPEG on a GPU."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["UnreadableImageError", "decode", "decode_all", "jpeg_frame"]

_DEPRECATED = "The image decoding and encoding capabilities of TorchVision are deprecated"
_MOST_PIXELS = 178_956_970  # what Pillow refuses as a decompression bomb; ImageNet's largest has 61 million
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive Huffman
_WITHOUT_LENGTH = frozenset({0x01, 0xFF, *range(0xD0, 0xD9)})


class UnreadableImageError(ValueError):
    """The bytes are no image, or a damaged one."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context torchvision does not say of every batch that its nvJPEG decoder moves to another package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_DEPRECATED, category=DeprecationWarning)
        yield


def decode(encoded: Tensor) -> Tensor:
    """Decode one image to RGB as ``PIL.Image.open(file).convert("RGB")`` does, EXIF orientation ignored.

    JPEGs are decoded by libjpeg-turbo straight into a tensor; whatever it refuses, and every other format (ImageNet has
    a PNG among its files), by Pillow.

    Args:
        encoded: uint8 ``(bytes,)``, the content of the file, on the CPU.

    Returns:
        uint8 ``(3, H, W)`` in channels-last memory.

    Raises:
        UnreadableImageError: It cannot be decoded, or its header asks for more pixels than any photograph has.
    """
    import simplejpeg

    if _is_jpeg(encoded):
        content = encoded.numpy()
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            _check_size(height, width)
            if colours in ("Gray", "YCbCr", "RGB"):
                return torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB")).permute(2, 0, 1)
        except UnreadableImageError:
            raise
        except ValueError:
            pass  # damaged, or of a kind that Pillow alone knows
    return _decode_by_pillow(encoded)


def decode_all(encoded: Sequence[Tensor], device: torch.device) -> Iterator[Tensor | UnreadableImageError]:
    """Decode many images: on a GPU all its JPEGs in one call of nvJPEG, on the CPU each when it is asked for.

    Args:
        encoded: uint8 ``(bytes,)`` each, on the CPU.
        device: Where the pixels are wanted.

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
            yield ready.pop(position) if position in ready else decode(content).to(device)
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

    Example:
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


def _decode_by_pillow(encoded: Tensor) -> Tensor:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded.numpy().tobytes())) as image:
            _check_size(image.height, image.width)
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # a decoder may fail in any way on a damaged file
        raise UnreadableImageError(str(error) or type(error).__name__) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _is_jpeg(encoded: Tensor) -> bool:
    return encoded[:3].tolist() == [0xFF, 0xD8, 0xFF]
