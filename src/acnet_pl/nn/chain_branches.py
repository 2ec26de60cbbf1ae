"""Branches of two linear layers: 1×1 then k×k, 1×1 then a fixed filter, depthwise k×k then 1×1.

Sources: "Diverse Branch Block" (Ding et al., CVPR 2021, Fig. 2 and Sect. 3.2), and without the batch norm in between
"Online Convolutional Re-parameterization" (Hu et al., CVPR 2022, Sect. 3.2 and 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from acnet_pl.nn.branch_layers import BranchLayer, BranchNorm
from acnet_pl.nn.composition import compose_depthwise_first, compose_pointwise_first, filter_pointwise, identity_kernel
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import KernelDraw
from acnet_pl.nn.fusible import fuse_norm
from acnet_pl.nn.inner_layers import kernel_of

__all__ = ["FilterBranch", "IdentityBasedConv", "InnerNorm", "PointwiseFirstBranch", "SeparableBranch"]


class IdentityBasedConv(nn.Module):
    """A 1×1 convolution that starts as the identity; weight decay pulls it towards the identity (DBB, Sect. 4.1).

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``.

    Args:
        in_channels: C_in.
        out_channels: C_out; if it exceeds C_in, the input channels of each group are repeated.
        groups: Groups of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels // groups, 1, 1))

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the kernel: the identity plus the weight."""
        return weight + identity_kernel(self.out_channels, self.in_channels, self.groups, weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, C_in, H, W)`` to ``(N, C_out, H, W)``."""
        return F.conv2d(x, self.kernel(self.weight), groups=self.groups)


class InnerNorm(nn.Module):
    """The batch norm after a branch's 1×1 convolution, if any, and the padding of its output.

    The padding value is what the norm makes of a zero, as if the block's input had been padded. The k×k convolution
    that follows then agrees with the fused kernel at the border, and the statistics come from the image alone.
    """

    def __init__(self, channels: int, shape: ConvShape, norm: bool) -> None:
        super().__init__()
        self.padding = shape.zero_padding
        self.register_module("bn", nn.BatchNorm2d(channels) if norm else None)

    bn: _BatchNorm | None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and pad ``(N, C, H, W)``."""
        if self.bn is not None and not isinstance(self.bn, _BatchNorm):
            raise TypeError(
                f"a {type(self.bn).__name__} is in place of the batch norm inside a branch, whose statistics say what "
                "to pad with; put a batch norm there"
            )
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
            value = value.detach()  # from the running statistics, as in the authors' code
        return F.pad(x - value, margins) + value

    def fuse_into(self, kernel: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the 1×1 kernel and bias with the norm fused in."""
        return (kernel, None) if self.bn is None else fuse_norm(kernel, None, self.bn)


class PointwiseFirstBranch(BranchLayer):
    """A 1×1 convolution, an optional batch norm, a k×k convolution and the last layer.

    Args:
        shape: The arguments of the block's convolution.
        inner_channels: Channels between the convolutions, a multiple of the groups; C_in or more start as copies of
            the input.
        inner_norm: Whether there is a batch norm between the convolutions.
        norm: The last layer, "batch" or "scale".
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
        self.inner = InnerNorm(inner_channels, shape, inner_norm)
        channels = (inner_channels, shape.out_channels, shape.size)
        self.conv = nn.Conv2d(*channels, shape.stride, 0, shape.dilation, shape.groups, bias=False)
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
    """A 1×1 convolution, an optional batch norm, a fixed k×k filter on each channel and the last layer.

    Args:
        shape: The arguments of the block's convolution.
        title: What it computes, for display.
        window: Computes the filter of each output channel, ``(C_out, k, k)``, from C_out and k; None is the average.
        pointwise: Whether there is a 1×1 convolution. Without it the block must be depthwise with C_out = C_in.
        inner_norm: Whether there is a batch norm after the 1×1 convolution.
        norm: The last layer, "batch" or "scale".
    """

    window: Tensor | None
    conv: nn.Conv2d | None

    def __init__(
        self,
        shape: ConvShape,
        title: str,
        window: Callable[[int, int], Tensor] | None = None,
        pointwise: bool = True,
        inner_norm: bool = True,
        norm: BranchNorm = "batch",
    ) -> None:
        super().__init__(shape, title, norm)
        channels = (shape.in_channels, shape.out_channels, 1)
        conv = nn.Conv2d(*channels, groups=shape.groups, bias=False) if pointwise else None
        self.register_module("conv", conv)
        self.inner = InnerNorm(shape.out_channels, shape, inner_norm and pointwise)
        size = (shape.out_channels, shape.size, shape.size)
        self.register_buffer("window", None if window is None else torch.empty(size), persistent=False)
        self._make_window = window
        self.add_norm()

    def draw(self, draw: KernelDraw, paired_with: Tensor | None, name: str) -> None:  # noqa: D102
        super().draw(draw, paired_with, name)
        self._fill_window()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Load the tensors; compute the window, which no checkpoint has, for a block built without values."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        like = state_dict.get(f"{prefix}norm.weight")
        if self.window is not None and self.window.is_meta and like is not None:  # load_state_dict(..., assign=True)
            self.window = torch.empty_like(self.window, device=like.device, dtype=like.dtype)
        self._fill_window()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the tensors; compute the window anew, which would keep the rounding of a cast."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill_window()
        return self

    @torch.no_grad()
    def _fill_window(self) -> None:
        if self.window is not None and self._make_window is not None:
            with torch.device("cpu"):
                window = self._make_window(self.shape.out_channels, self.shape.size)
            self.window.copy_(window)

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
        """Return the filters ``(C_out, k, k)`` in the dtype and on the device of ``like``."""
        size, channels = self.shape.size, self.shape.out_channels
        if self.window is None:
            return like.new_full((channels, size, size), 1 / size**2)
        return self.window.to(like)


class SeparableBranch(BranchLayer):
    """A depthwise k×k convolution, a 1×1 convolution and the last layer.

    Args:
        shape: The arguments of the block's convolution.
        multiple: Number of filters on each input channel.
        norm: The last layer, "batch" or "scale".
    """

    def __init__(self, shape: ConvShape, multiple: int, norm: BranchNorm = "batch") -> None:
        super().__init__(shape, f"depthwise {shape.size}×{shape.size}-1×1", norm)
        wide, steps = shape.in_channels * multiple, (shape.stride, shape.zero_padding, shape.dilation)
        self.depthwise = nn.Conv2d(shape.in_channels, wide, shape.size, *steps, groups=shape.in_channels, bias=False)
        self.pointwise = nn.Conv2d(wide, shape.out_channels, 1, groups=shape.groups, bias=False)
        self.add_norm()

    def respond(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.pointwise(self.depthwise(x))
        return out

    def compose(self, cast: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        kernels = cast(kernel_of(self.depthwise)), cast(kernel_of(self.pointwise))
        return compose_depthwise_first(*kernels, self.shape.in_channels, self.shape.groups), None

    def kernels(self) -> tuple[Tensor, ...]:  # noqa: D102
        return self.depthwise.weight, self.pointwise.weight
