"""Where the kernel of a branch lies in the k×k window of a block, and which padding lets it see that part."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from acnet_pl.nn.fusion import embed_kernel

__all__ = ["BranchGeometry"]


@dataclass(frozen=True)
class BranchGeometry:
    """A kernel within a k×k window (Fig. 2).

    Attributes:
        window: Height and width ``(k, k)``.
        size: Height and width of the kernel.
        offset: Row and column in the window of the kernel's first weight.
        padding: Rows and columns of zeros that the branch's convolution puts on each side.
        margins: What its input is padded or, where negative, cropped by before that, as torch.nn.functional.pad takes
            it: left, right, top, bottom.
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
        """Find padding and margins.

        The branch sees the window when its padding is p - offset * dilation before and
        p - (k - size - offset) * dilation after. Symmetric zero padding is left to the convolution itself.

        Args:
            window: Height and width.
            size: Of the kernel.
            offset: Of the kernel in the window.
            zero_padding: p of the square convolution, rows and columns.
            dilation: Rows and columns.
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
        """The part of the block's input ``(N, C, H, W)`` that the branch's convolution is given."""
        left, right, top, bottom = self.margins
        if self.margins == (0, 0, 0, 0):
            return x
        if max(self.margins) <= 0:
            return x[..., -top : bottom or None, -left : right or None]
        return F.pad(x, self.margins)

    def embed(self, kernel: Tensor) -> Tensor:
        """The kernel ``(O, I/groups, h, w)`` in its place in a window of zeros."""
        return kernel if self.size == self.window else embed_kernel(kernel, self.window, self.offset)

    def place(self) -> tuple[slice, slice]:
        """Return the kernel's rows and columns in the window."""
        (top, left), (height, width) = self.offset, self.size
        return slice(top, top + height), slice(left, left + width)
