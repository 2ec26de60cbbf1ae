"""Branches of two linear layers: 1×1 then k×k, 1×1 then a fixed filter, depthwise k×k then 1×1.

Sources: "Diverse Branch Block" (Ding et al., CVPR 2021, Fig. 2 and Sect. 3.2); "Online Convolutional
Re-parameterization" (Hu et al., CVPR 2022, Sect. 3.2 and 3.3) has them without the batch norm in between.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.branch_layers import BranchLayer, BranchNorm
from acnet_pl.nn.composition import compose_depthwise_first, compose_pointwise_first, filter_pointwise, identity_kernel
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import KernelDraw, undrawn
from acnet_pl.nn.fusible import fuse_norm, kernel_of

__all__ = ["FilterBranch", "PointwiseFirstBranch", "SeparableBranch"]


class IdentityBasedConv(nn.Module):
    """A 1×1 convolution that begins as the identity; weight decay draws it back there (DBB, Sect. 4.1).

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    Args:
        in_channels: C_in.
        out_channels: C_out; where it is larger, the input channels of a group come several times.
        groups: Groups.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels // groups, 1, 1))

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the kernel, the identity plus the weight."""
        return weight + identity_kernel(self.out_channels, self.in_channels, self.groups, weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(x, self.kernel(self.weight), groups=self.groups)


class _InnerNorm(nn.Module):
    """The batch norm between a 1×1 convolution and what comes after, if any, and the padding of its output.

    Padded is with what it makes of a zero, as if the block's input were padded. So the border of the k×k convolution
    after it has the fused kernel's value, and the batch statistics are of the image alone.
    """

    def __init__(self, channels: int, shape: ConvShape, norm: bool) -> None:
        super().__init__()
        self.padding = shape.zero_padding
        self.register_module("bn", nn.BatchNorm2d(channels) if norm else None)

    bn: _BatchNorm | None

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.padding
        margins = (width, width, height, height)
        x = x if self.bn is None else self.bn(x)
        if self.padding == (0, 0):
            return x
        if self.bn is None or self.bn.running_mean is None or self.bn.running_var is None:
            return F.pad(x, margins)
        scale = (self.bn.running_var + self.bn.eps).rsqrt()
        value = -self.bn.running_mean * (scale if self.bn.weight is None else scale * self.bn.weight)
        value = (value if self.bn.bias is None else value + self.bn.bias).to(x.dtype)[:, None, None]
        if self.bn.training:
            value = value.detach()  # by the running statistics, as in the authors' code
        return F.pad(x - value, margins) + value

    def fuse_into(self, kernel: Tensor) -> tuple[Tensor, Tensor | None]:
        return (kernel, None) if self.bn is None else fuse_norm(kernel, None, self.bn)


class PointwiseFirstBranch(BranchLayer):
    """A 1×1 convolution, a batch norm if wanted, a k×k convolution and the last layer.

    Args:
        shape: The block's.
        inner_channels: Channels between the two, a multiple of the groups; as many as C_in or more begin as copies of
            the input.
        inner_norm: Have a batch norm between the two.
        norm: The last layer.
    """

    def __init__(
        self, shape: ConvShape, inner_channels: int, inner_norm: bool = True, norm: BranchNorm = "batch"
    ) -> None:
        size = f"{shape.size}×{shape.size}"
        super().__init__(shape, f"1×1-{size}", norm)
        if inner_channels % shape.groups or inner_channels < 1:
            raise ValueError(
                f"`internal_channels` (={inner_channels}) must be positive and divisible by `groups` (={shape.groups})"
            )
        self.pointwise = IdentityBasedConv(shape.in_channels, inner_channels, shape.groups)
        self.inner = _InnerNorm(inner_channels, shape, inner_norm)
        channels = (inner_channels, shape.out_channels, shape.size)
        self.conv = undrawn(nn.Conv2d, *channels, shape.stride, 0, shape.dilation, shape.groups, bias=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(self.inner(self.pointwise(x)))
        return out

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        kernel, bias = self.inner.fuse_into(self.pointwise.kernel(cast(self.pointwise.weight)))
        return compose_pointwise_first(kernel, bias, cast(kernel_of(self.conv)), self.shape.groups)

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return self.pointwise.weight, self.conv.weight

    def draw(self, draw: KernelDraw, paired_with: Tensor | None, name: str) -> None:  # noqa: D102
        super().draw(draw, paired_with, name)
        nn.init.zeros_(self.pointwise.weight)


class FilterBranch(BranchLayer):
    """A 1×1 convolution, a batch norm if wanted, a fixed k×k filter of each channel and the last layer.

    Args:
        shape: The block's.
        title: What it computes.
        window: The filter of each output channel, ``(C_out, k, k)``; None is the average.
        pointwise: Have the 1×1 convolution. Without it the block must be depthwise, one output for each input channel.
        inner_norm: Have a batch norm after the 1×1 convolution.
        norm: The last layer.
    """

    window: Tensor | None
    conv: nn.Conv2d | None

    def __init__(
        self,
        shape: ConvShape,
        title: str,
        window: Tensor | None = None,
        pointwise: bool = True,
        inner_norm: bool = True,
        norm: BranchNorm = "batch",
    ) -> None:
        super().__init__(shape, title, norm)
        channels = (shape.in_channels, shape.out_channels, 1)
        conv = undrawn(nn.Conv2d, *channels, groups=shape.groups, bias=False) if pointwise else None
        self.register_module("conv", conv)
        self.inner = _InnerNorm(shape.out_channels, shape, inner_norm and pointwise)
        self.register_buffer("window", window, persistent=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.inner(x if self.conv is None else self.conv(x))
        if self.window is None and self.shape.dilation == (1, 1):
            return F.avg_pool2d(x, self.shape.size, self.shape.stride)
        channels = self.shape.out_channels
        return F.conv2d(x, self._filters(x)[:, None], None, self.shape.stride, 0, self.shape.dilation, channels)

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        filters = self._filters(cast(self.like()))
        if self.conv is None:
            return filters[:, None], None
        kernel, bias = self.inner.fuse_into(cast(kernel_of(self.conv)))
        return filter_pointwise(kernel, filters), None if bias is None else bias * filters.sum((1, 2))

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return () if self.conv is None else (self.conv.weight,)

    def _filters(self, like: Tensor) -> Tensor:
        """The filters ``(C_out, k, k)`` in a tensor's dtype and on its device."""
        size, channels = self.shape.size, self.shape.out_channels
        if self.window is None:
            return like.new_full((channels, size, size), 1 / size**2)
        return self.window.to(like)


class SeparableBranch(BranchLayer):
    """A depthwise k×k convolution, a 1×1 convolution and the last layer.

    Args:
        shape: The block's.
        multiple: Filters on each input channel.
        norm: The last layer.
    """

    def __init__(self, shape: ConvShape, multiple: int, norm: BranchNorm = "batch") -> None:
        super().__init__(shape, f"depthwise {shape.size}×{shape.size}-1×1", norm)
        wide, steps = shape.in_channels * multiple, (shape.stride, shape.zero_padding, shape.dilation)
        self.depthwise = undrawn(
            nn.Conv2d, shape.in_channels, wide, shape.size, *steps, groups=shape.in_channels, bias=False
        )
        self.pointwise = undrawn(nn.Conv2d, wide, shape.out_channels, 1, groups=shape.groups, bias=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.pointwise(self.depthwise(x))
        return out

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        kernels = cast(kernel_of(self.depthwise)), cast(kernel_of(self.pointwise))
        return compose_depthwise_first(*kernels, self.shape.in_channels, self.shape.groups), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return self.depthwise.weight, self.pointwise.weight
