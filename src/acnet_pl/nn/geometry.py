"""The place of a branch's kernel in the k×k window of its block, and the padding that this place needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from acnet_pl.nn.fusion import embed_kernel

__all__ = ["BranchGeometry"]


@dataclass(frozen=True)
class BranchGeometry:
    """The place of a kernel in a k×k window (Fig. 2).

    Attributes:
        window: Height and width ``(k, k)``.
        size: Height and width of the kernel.
        offset: Row and column of the kernel's first weight in the window.
        padding: Rows and columns of zeros that the branch's convolution adds on each side.
        margins: Padding of the branch's input beforehand, or cropping if negative, in the order of
            torch.nn.functional.pad: left, right, top, bottom.
    """

    window: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int]
    padding: tuple[int, int]
    margins: tuple[int, int, int, int]

    @classmethod
    def of(
        cls,
        window: tuple[int, int],
        size: tuple[int, int],
        offset: tuple[int, int],
        zero_padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> BranchGeometry:
        """Compute the padding and margins of a kernel in a window.

        Along each axis the branch needs a padding of p - offset * dilation before its input and
        p - (k - size - offset) * dilation after it. The convolution itself does symmetric padding with zeros.

        Args:
            window: Height and width of the window.
            size: Height and width of the kernel.
            offset: Row and column of the kernel's first weight in the window.
            zero_padding: Padding p of the square convolution, in rows and columns.
            dilation: Dilation along rows and columns.
        """
        around = [
            (p - before * d, p - (k - length - before) * d)
            for k, length, before, p, d in zip(window, size, offset, zero_padding, dilation, strict=True)
        ]
        (top, bottom), (left, right) = around
        if top == bottom >= 0 and left == right >= 0:
            return cls(window, size, offset, (top, left), (0, 0, 0, 0))
        return cls(window, size, offset, (0, 0), (left, right, top, bottom))

    def pad_or_crop(self, x: Tensor) -> Tensor:
        """Crop or pad the block's input ``(N, C, H, W)`` to the part that the branch's convolution needs."""
        left, right, top, bottom = self.margins
        if self.margins == (0, 0, 0, 0):
            return x
        if max(self.margins) <= 0:
            return x[..., -top : bottom or None, -left : right or None]
        return F.pad(x, self.margins)

    def embed(self, kernel: Tensor) -> Tensor:
        """Embed the kernel ``(O, I/groups, h, w)`` in a window of zeros."""
        return kernel if self.size == self.window else embed_kernel(kernel, self.window, self.offset)

    def place(self) -> tuple[slice, slice]:
        """Return the kernel's rows and columns in the window, as slices."""
        (top, left), (height, width) = self.offset, self.size
        return slice(top, top + height), slice(left, left + width)
