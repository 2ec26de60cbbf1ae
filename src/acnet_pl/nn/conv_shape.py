"""ConvShape: the checked arguments of a block's convolution, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from acnet_pl.nn.arguments import (
    IntPair,
    Padding,
    PaddingMode,
    check_choice,
    check_groups,
    check_range,
    padding_size,
    pair,
    square_size,
)
from acnet_pl.nn.geometry import BranchGeometry

__all__ = ["ConvShape"]


@dataclass(frozen=True)
class ConvShape:
    """The checked arguments of a block's convolution, which all its branches share.

    Attributes:
        in_channels: C_in.
        out_channels: C_out.
        size: k.
        stride: Rows and columns.
        padding: The block's ``padding`` argument.
        input_padding: Rows and columns of padding on each side.
        dilation: Rows and columns.
        groups: Groups.
        padding_mode: As nn.Conv2d's.
    """

    in_channels: int
    out_channels: int
    size: int
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    input_padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode: PaddingMode

    @classmethod
    def of(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair,
        padding: Padding,
        dilation: IntPair,
        groups: int,
        padding_mode: PaddingMode,
        *,
        pointwise: bool = False,
    ) -> ConvShape:
        """Check the arguments of a block, which are those of nn.Conv2d.

        Args:
            in_channels: C_in.
            out_channels: C_out.
            kernel_size: k, odd and at least 3 (or a pair of equal numbers).
            stride: As nn.Conv2d's.
            padding: As nn.Conv2d's.
            dilation: As nn.Conv2d's.
            groups: As nn.Conv2d's.
            padding_mode: As nn.Conv2d's.
            pointwise: Allow k = 1.

        Raises:
            ValueError: An argument is out of range.
        """
        size = 1 if pointwise and pair(kernel_size, "kernel_size") == (1, 1) else square_size(kernel_size)
        check_groups(in_channels, out_channels, groups)
        check_choice("padding_mode", padding_mode, PaddingMode)
        steps, holes = pair(stride, "stride"), pair(dilation, "dilation")
        for name, values in (("stride", steps), ("dilation", holes)):
            check_range(name, min(values), 1)
        around = padding_size(padding, (size, size), steps, holes)
        check_range("padding", min(around), 0)
        given = padding if isinstance(padding, str) else pair(padding, "padding")
        return cls(in_channels, out_channels, size, steps, given, around, holes, groups, padding_mode)

    @property
    def zero_padding(self) -> tuple[int, int]:
        """Return the rows and columns of zeros that branches pad; (0, 0) in other modes, for which see `pad`."""
        return self.input_padding if self.padding_mode == "zeros" else (0, 0)

    def geometry(self, height: int, width: int, offset: tuple[int, int] | None = None) -> BranchGeometry:
        """Place a kernel of this size in the window: at row and column ``offset``, or at the centre."""
        offset = offset or ((self.size - height) // 2, (self.size - width) // 2)
        return BranchGeometry.of((self.size,) * 2, (height, width), offset, self.zero_padding, self.dilation)

    def pad(self, x: Tensor) -> Tensor:
        """Pad the input once for all branches, unless the padding is with zeros."""
        if self.padding_mode == "zeros" or self.input_padding == (0, 0):
            return x
        height, width = self.input_padding
        return F.pad(x, (width, width, height, height), mode=self.padding_mode)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve what `pad` returned with a kernel ``(O, I/groups, k, k)``."""
        return F.conv2d(x, kernel, bias, self.stride, self.zero_padding, self.dilation, self.groups)
