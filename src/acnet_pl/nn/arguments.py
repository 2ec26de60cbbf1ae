"""Types and checks of the arguments that convolutions take."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

__all__ = ["ConvArguments", "IntPair", "Padding", "PaddingMode"]
__all__ += ["check_choice", "check_finite", "check_groups", "check_range", "padding_size", "pair"]
__all__ += ["side", "square_size", "why_no_centre"]

IntPair = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Padding = int | tuple[int, int] | str
ConvArguments = tuple[int, int, int, IntPair, Padding, IntPair, int, PaddingMode]
"""Input and output channels, kernel size, stride, padding, dilation, groups and padding mode, as nn.Conv2d's."""


def pair(value: IntPair, name: str) -> tuple[int, int]:
    """Return an int or a pair of ints as a pair; raise a ValueError that names the argument for anything else."""
    values = value if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"`{name}` (={value!r}) must be an int or a pair of ints")
    return values[0], values[1]


def square_size(kernel_size: IntPair) -> int:
    """Return the k of a k×k kernel; raise ValueError if the kernel is rectangular, even or smaller than 3."""
    height, width = pair(kernel_size, "kernel_size")
    if height != width:
        raise ValueError(
            f"`kernel_size` (={height}×{width}) must be square: 1×k and k×1 kernels strengthen the central row and "
            "column of a k×k kernel; keep a plain nn.Conv2d for this layer"
        )
    if height % 2 == 0 or height < 3:
        raise ValueError(
            f"`kernel_size` (={height}) must be odd and at least 3: an even or 1×1 kernel has no central row and "
            "column of its own to strengthen; keep a plain nn.Conv2d for this layer"
        )
    return height


def side(kernel_size: IntPair) -> int:
    """Return the k of a k×k kernel of any size; raise ValueError if it is rectangular or no positive int."""
    height, width = pair(kernel_size, "kernel_size")
    if height != width:
        raise ValueError(f"`kernel_size` (={height}×{width}) must be square: keep a plain nn.Conv2d for this layer")
    check_range("kernel_size", height, 1)
    return height


def why_no_centre(kernel_size: int) -> str:
    """Return the reason why a k×k kernel has no central row and column, or "" if it has them."""
    if kernel_size == 1:
        return "1×1 kernel"
    return f"even kernel {kernel_size}×{kernel_size}" if kernel_size % 2 == 0 else ""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise a ValueError that names the argument if its value is not one of a Literal type's."""
    if value not in get_args(choices):
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, get_args(choices)))}")


def check_finite(name: str, value: object) -> None:
    """Raise a ValueError that names the argument if its value is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"`{name}` (={value!r}) must be a finite number")


def check_range(name: str, value: int, least: int) -> None:
    """Raise a ValueError that names the argument if its value is no int, or below ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"`{name}` (={value!r}) must be an int, at least {least}")
    if value < least:
        raise ValueError(f"`{name}` (={value}) must be at least {least}")


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ValueError if a number of channels is no positive int or not divisible by the groups."""
    check_range("in_channels", in_channels, 1)
    check_range("out_channels", out_channels, 1)
    check_range("groups", groups, 1)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"`{name}` (={channels}) must be divisible by `groups` (={groups})")


def padding_size(
    padding: Padding, kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Return the rows and columns of padding on each side; raise ValueError if ``padding`` is not a valid padding."""
    if padding == "valid":
        return 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1, got `stride` (={stride}); give the padding as a number")
        height, width = (d * (k - 1) // 2 for d, k in zip(dilation, kernel_size, strict=True))
        return height, width
    if isinstance(padding, str):
        raise ValueError(f"`padding` (={padding!r}) must be an int, a pair of ints, 'same' or 'valid'")
    return pair(padding, "padding")
