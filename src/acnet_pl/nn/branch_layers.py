"""Branches to build blocks from: each computes part of a k×k convolution, and fuses to a kernel in the k×k window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.composition import identity_kernel
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import KernelDraw, branch_generator, draw_kernel
from acnet_pl.nn.fusible import Fused, exact, fuse_norm
from acnet_pl.nn.inner_layers import kernel_of
from acnet_pl.nn.scale import ChannelScale

__all__ = ["BranchLayer", "BranchNorm", "ConvBranch", "IdentityBranch"]

BranchNorm = Literal["batch", "scale"]


class BranchLayer(nn.Module, ABC):
    """One branch of a `BranchedConv`: linear layers, then a batch norm or scale as the last layer.

    Args:
        shape: The arguments of the block's convolution.
        title: What it computes, for display.
        norm: The last layer: "batch" for a batch norm, "scale" for a learned factor per channel.
    """

    def __init__(self, shape: ConvShape, title: str, norm: BranchNorm) -> None:
        super().__init__()
        self.shape = shape
        self.title = title
        self.last = norm
        self.geometry = shape.geometry(shape.size, shape.size)

    norm: _BatchNorm | ChannelScale

    def add_norm(self) -> None:
        """Register the last layer. Call this after registering the others, to keep parameters in order of use."""
        channels = self.shape.out_channels
        self.norm = nn.BatchNorm2d(channels) if self.last == "batch" else ChannelScale(channels)

    @abstractmethod
    def respond(self, x: Tensor) -> Tensor:
        """Map the block's input ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, before the last layer."""

    @abstractmethod
    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the kernel and bias, if any, of `respond` in eval mode, from cast tensors.

        The kernel ``(O, I/groups, h, w)`` has the size of ``geometry``, which is its place in the block's window: the
        whole window unless the branch sets another.
        """

    @abstractmethod
    def kernels(self) -> tuple[Tensor, ...]:
        """List the trainable kernels in order of use."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        out: Tensor = self.norm(self.respond(x))
        return out

    def fused(self, cast: Callable[[Tensor], Tensor] = exact) -> tuple[Tensor, Tensor | None]:
        """Return the kernel ``(O, I/groups, k, k)`` and bias with the last layer fused in."""
        kernel, bias = self.compose(cast)
        kernel = self.geometry.embed(kernel)
        if bias is None and isinstance(self.norm, ChannelScale):
            return self.norm.scale_kernel(kernel), None
        fused: Fused = fuse_norm(kernel, bias, self.norm)
        return fused

    def like(self) -> Tensor:
        """Return a tensor of the branch's dtype and device, or an empty one if the branch has no tensors."""
        return next((tensor for tensor in [*self.parameters(), *self.buffers()]), torch.empty(0))

    def draw(self, draw: KernelDraw, paired_with: Tensor | None, name: str) -> None:
        """Draw new kernels and reset the norms; see `branch_generator` for ``paired_with``."""
        generator = None if paired_with is None else branch_generator(paired_with, name)
        for kernel in self.kernels():
            draw_kernel(kernel, draw, generator)
        for module in self.modules():
            if isinstance(module, (_BatchNorm, ChannelScale)):
                module.reset_parameters()


class ConvBranch(BranchLayer):
    """A convolution at the centre of the block's window, followed by its batch norm or scale.

    Args:
        shape: The arguments of the block's convolution.
        size: Height and width of the kernel, both odd; None is the block's size.
        norm: The last layer, "batch" or "scale".
    """

    def __init__(self, shape: ConvShape, size: tuple[int, int] | None = None, norm: BranchNorm = "batch") -> None:
        size = size or (shape.size, shape.size)
        super().__init__(shape, "×".join(map(str, size)), norm)
        self.geometry = shape.geometry(*size)
        channels, padding = (shape.in_channels, shape.out_channels), self.geometry.padding
        self.conv = nn.Conv2d(*channels, size, shape.stride, padding, shape.dilation, shape.groups, bias=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(self.geometry.pad_or_crop(x))
        return out

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        return cast(kernel_of(self.conv)), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return (self.conv.weight,)


class IdentityBranch(BranchLayer):
    """A batch norm of the block's input. It needs equally many input and output channels, and stride 1."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__(shape, "identity", "batch")
        geometry = shape.geometry(1, 1)
        self.geometry = geometry
        (top, left), (before, after, above, below) = geometry.padding, geometry.margins
        self._margins = (before + left, after + left, above + top, below + top)
        self.add_norm()

    @classmethod
    def where_fitting(cls, shape: ConvShape) -> dict[str, BranchLayer]:
        """Return ``{"identity": ...}`` if channels and stride allow the branch, otherwise an empty dict."""
        fits = shape.in_channels == shape.out_channels and shape.stride == (1, 1)
        return {"identity": cls(shape)} if fits else {}

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        return x if self._margins == (0, 0, 0, 0) else F.pad(x, self._margins)

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        channels = self.shape.out_channels
        return identity_kernel(channels, channels, self.shape.groups, cast(self.like())), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return ()
