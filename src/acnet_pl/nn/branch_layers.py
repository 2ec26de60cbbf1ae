"""Branches to build blocks of: each computes part of a k×k convolution, and fuses to a kernel in its k×k window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
from acnet_pl.nn.composition import identity_kernel
from acnet_pl.nn.draw import KernelDraw, branch_generator, draw_kernel, undrawn
from acnet_pl.nn.fusible import Fused, exact, fold_norm, kernel_of
from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.scale import ChannelScale

__all__ = ["BranchLayer", "BranchNorm", "ConvBranch", "ConvShape", "IdentityBranch"]

BranchNorm = Literal["batch", "scale"]


@dataclass(frozen=True)
class ConvShape:
    """What a block's branches have in common: the arguments of its convolution, checked.

    Attributes:
        in_channels: C_in.
        out_channels: C_out.
        size: k.
        stride: Rows and columns.
        padding: As the block was given it.
        input_padding: Rows and columns on each side.
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
            ValueError: An argument is out of its range.
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
        """Rows and columns of zeros around what the branches are given, which is padded already in other modes."""
        return self.input_padding if self.padding_mode == "zeros" else (0, 0)

    def geometry(self, height: int, width: int) -> BranchGeometry:
        """Return where a kernel of that size lies at the centre of the window."""
        offset = (self.size - height) // 2, (self.size - width) // 2
        return BranchGeometry.of((self.size,) * 2, (height, width), offset, self.zero_padding, self.dilation)


class BranchLayer(nn.Module, ABC):
    """One branch of a `BranchedConv`: what comes before its last layer, which is a batch norm or scale.

    Args:
        shape: The block's.
        title: What it computes, for display.
        norm: Its last layer: "batch" norm, or "scale", a learned factor per channel.
    """

    def __init__(self, shape: ConvShape, title: str, norm: BranchNorm) -> None:
        super().__init__()
        self.shape = shape
        self.title = title
        self.last = norm

    norm: _BatchNorm | ChannelScale

    def add_norm(self) -> None:
        """Register the last layer; after the others, so that parameters are in the order of their use."""
        channels = self.shape.out_channels
        self.norm = nn.BatchNorm2d(channels) if self.last == "batch" else ChannelScale(channels)

    @abstractmethod
    def respond(self, x: Tensor) -> Tensor:
        """Map the block's input ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, before the last layer."""

    @abstractmethod
    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return kernel ``(O, I/groups, k, k)`` and bias, if any, of `respond` in eval mode, made of cast tensors."""

    @abstractmethod
    def kernels(self) -> tuple[Tensor, ...]:
        """List the trainable kernels in the order of their use."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        out: Tensor = self.norm(self.respond(x))
        return out

    def fused(self, cast: Callable[[Tensor], Tensor] = exact) -> tuple[Tensor, Tensor | None]:
        """Return the kernel and bias with the last layer fused in."""
        kernel, bias = self.compose(cast)
        if bias is None and isinstance(self.norm, ChannelScale):
            return self.norm.scale_kernel(kernel), None
        fused: Fused = fold_norm(kernel, bias, self.norm)
        return fused

    def like(self) -> Tensor:
        """Return a tensor of the branch's dtype and device; an empty one if it has no tensors."""
        return next((tensor for tensor in [*self.parameters(), *self.buffers()]), torch.empty(0))

    def draw(self, draw: KernelDraw, paired_with: Tensor | None, name: str) -> None:
        """Draw the kernels anew and reset the norms; see `branch_generator` for ``paired_with``."""
        generator = None if paired_with is None else branch_generator(paired_with, name)
        for kernel in self.kernels():
            draw_kernel(kernel, draw, generator)
        for module in self.modules():
            if isinstance(module, (_BatchNorm, ChannelScale)):
                module.reset_parameters()


class ConvBranch(BranchLayer):
    """A convolution at the centre of the block's window and its batch norm or scale.

    Args:
        shape: The block's.
        size: Height and width of the kernel, odd; None is the block's.
        norm: Its last layer.
    """

    def __init__(self, shape: ConvShape, size: tuple[int, int] | None = None, norm: BranchNorm = "batch") -> None:
        size = size or (shape.size, shape.size)
        super().__init__(shape, "×".join(map(str, size)), norm)
        self.geometry = shape.geometry(*size)
        channels, padding = (shape.in_channels, shape.out_channels), self.geometry.padding
        self.conv = undrawn(nn.Conv2d, *channels, size, shape.stride, padding, shape.dilation, shape.groups, bias=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(self.geometry.pad_or_crop(x))
        return out

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        return self.geometry.embed(cast(kernel_of(self.conv))), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self.conv.weight,)


class IdentityBranch(BranchLayer):
    """A batch norm of the block's input, for as many output as input channels and stride 1."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__(shape, "identity", "batch")
        geometry = shape.geometry(1, 1)
        self.geometry = geometry
        (top, left), (before, after, above, below) = geometry.padding, geometry.margins
        self._margins = (before + left, after + left, above + top, below + top)
        self.add_norm()

    @staticmethod
    def fits(shape: ConvShape) -> bool:
        """Return True where output and input have one shape but for padding, so that there is an identity."""
        return shape.in_channels == shape.out_channels and shape.stride == (1, 1)

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        return x if self._margins == (0, 0, 0, 0) else F.pad(x, self._margins)

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        channels = self.shape.out_channels
        return self.geometry.embed(identity_kernel(channels, channels, self.shape.groups, cast(self.like()))), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return ()
