"""ConvBuilder, which a backbone calls to build its convolutions, and the builders PlainConv and ACBConv."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack

from acnet_pl.nn.acb import ACBlock, BranchNorm, Position
from acnet_pl.nn.arguments import ConvArguments, IntPair, Padding, PaddingMode, check_choice, pair, side, why_no_centre
from acnet_pl.nn.draw import Device, KernelDraw, draw_kernel, placed
from acnet_pl.nn.fusible import Branch, Fused, FusibleConv, exact
from acnet_pl.nn.inner_layers import kernel_of

__all__ = ["ACBConv", "BlockConv", "ConvBuilder", "ConvNorm", "PlainConv"]


class ConvNorm(FusibleConv):
    """A plain convolution and the batch norm after it, if any; fuses into one ``nn.Conv2d`` as an ACBlock does.

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``. Arguments as nn.Conv2d's; the convolution has no bias.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: Any.
        stride: As nn.Conv2d's.
        padding: As nn.Conv2d's.
        dilation: As nn.Conv2d's.
        groups: As nn.Conv2d's.
        padding_mode: As nn.Conv2d's.
        norm: Whether a batch norm follows the convolution.
        draw: Distribution of the new kernel: "pytorch" as in nn.Conv2d, or "fan_out" (Kaiming-normal).
        device: Where the tensors live; None is PyTorch's default device.
        dtype: Their dtype; None is PyTorch's default.
    """

    is_plain = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        norm: bool = True,
        draw: KernelDraw = "pytorch",
        device: Device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice("draw", draw, KernelDraw)
        super().__init__(
            in_channels,
            out_channels,
            pair(kernel_size, "kernel_size"),
            pair(stride, "stride"),
            padding if isinstance(padding, str) else pair(padding, "padding"),
            pair(dilation, "dilation"),
            groups,
            padding_mode,
        )
        self.draw: KernelDraw = draw
        with placed(self, device, dtype):
            arguments = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode)
            self.conv = nn.Conv2d(*arguments)
            self.norm: _BatchNorm | None = nn.BatchNorm2d(out_channels) if norm else None

    def reset_parameters(self) -> None:
        """Draw a new kernel and reset the norm."""
        draw_kernel(self.conv.weight, self.draw)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        x: Tensor = self.conv(input)
        if self.norm is not None:
            x = self.norm(x)
        return x

    def forward_branches(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        out: Tensor = self(x)
        return out

    def branches(self) -> list[Branch]:
        """List the one convolution."""
        return [Branch("conv", "×".join(map(str, self.kernel_size)), (self.conv.weight,), None)]

    def fuse_branches(self) -> dict[str, Fused]:
        """Return the kernel, and zeros for the bias."""
        return {"conv": (exact(kernel_of(self.conv)), exact(self.conv.weight.new_zeros(self.out_channels)))}


class ConvBuilder(ABC):
    """Builds a backbone's convolutions. A backbone calls its builder without knowing which kind it is.

    Every re-parameterisable block comes with a builder, a `BlockConv`.

    Attributes:
        draw: Distribution of the weights of a new network, including its fully connected layers.
        builds_blocks: Whether it builds blocks. If so, `convert` raises an error when it finds nothing to convert.
    """

    draw: KernelDraw = "pytorch"
    builds_blocks: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        norm: bool = True,
    ) -> nn.Module:
        """Build a convolution together with the batch norm that follows it in the plain network.

        Args:
            in_channels: C_in.
            out_channels: C_out.
            kernel_size: k.
            stride: As nn.Conv2d's.
            padding: As nn.Conv2d's.
            dilation: As nn.Conv2d's.
            groups: As nn.Conv2d's.
            padding_mode: As nn.Conv2d's.
            norm: Whether a batch norm directly follows in the plain network. It is False in pre-activation networks:
                their plain layers have none, but a block may still have its own ("if any", Sect. 3.3).

        Returns:
            A module from ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, without activation.
        """

    def why_plain(self, kernel_size: int) -> str:
        """Return the reason why a k×k convolution stays plain, or "" if it becomes a block."""
        return "" if self.builds_blocks else f"stays plain by {self!r}"

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class PlainConv(ConvBuilder):
    """Builds a plain convolution and batch norm: the baseline.

    Args:
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d and the authors' code, or "fan_out"
            (Kaiming-normal).
    """

    builds_blocks = False

    def __init__(self, draw: KernelDraw = "pytorch") -> None:
        check_choice("draw", draw, KernelDraw)
        self.draw: KernelDraw = draw

    def __call__(  # noqa: D102
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        norm: bool = True,
    ) -> ConvNorm:
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return ConvNorm(*shape, norm=norm, draw=self.draw)


class BlockConv(ConvBuilder):
    """Builds a block for every convolution that can become one, and a plain layer for the others.

    To add a re-parameterisable block, write a subclass of this class for it. `kind` is the block's class. `why_plain`
    says which kernels stay plain (1×1 and even ones, unless overridden). The attributes that ``__init__`` sets are the
    block's options.
    """

    @property
    @abstractmethod
    def kind(self) -> Callable[..., FusibleConv]:
        """Return the blocks' class, which is called with `ConvArguments` and the builder's attributes as keywords."""

    def __call__(  # noqa: D102
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        norm: bool = True,
    ) -> FusibleConv:
        size = side(kernel_size)
        shape = (in_channels, out_channels, size, stride, padding, dilation, groups, padding_mode)
        return ConvNorm(*shape, norm=norm, draw=self.draw) if self.why_plain(size) else self.block(*shape)

    def block(self, *arguments: Unpack[ConvArguments]) -> FusibleConv:
        """Build a block of class `kind` with the builder's options."""
        return self.kind(*arguments, **vars(self))

    def why_plain(self, kernel_size: int) -> str:  # noqa: D102
        return why_no_centre(kernel_size)


class ACBConv(BlockConv):
    """Builds an ACBlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain. Options: `ACBlock`'s.

    Args:
        horizontal: Whether blocks have the 1×k branch (Table 4).
        vertical: Whether blocks have the k×1 branch (Table 4).
        branch_norm: True is a batch norm in every branch. False is one after the sum (Table 4). "scale" is one after
            the sum and a learned factor per channel in every branch.
        asymmetric_size: Length of the 1-D kernels; None is each layer's kernel size. The article uses 3 throughout.
        position: "skeleton", or "border" for the variant of Fig. 6c.
        gamma_init: Initial γ of the branches' batch norms, or scale; the authors' later CIFAR recipes use 1/3.
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d and the authors' code, or "fan_out"
            (Kaiming-normal).
        paired: Give the ACNet the same square kernels as the plain network built with the same seed.
        statistics_share: Share of each training batch on which the branches are evaluated one by one; 1 is all of it.
            With 1/8 a block costs little more to train than a plain layer.
        at_once: Train the branches with one convolution and one batch norm; see `ACBlock` for when it may pay.
    """

    kind = ACBlock

    def __init__(
        self,
        horizontal: bool = True,
        vertical: bool = True,
        branch_norm: BranchNorm = True,
        asymmetric_size: int | None = None,
        position: Position = "skeleton",
        gamma_init: float = 1.0,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
        statistics_share: float = 1.0,
        at_once: bool = False,
    ) -> None:
        check_choice("draw", draw, KernelDraw)
        self.horizontal = horizontal
        self.vertical = vertical
        self.branch_norm: BranchNorm = branch_norm
        self.asymmetric_size = asymmetric_size
        self.position: Position = position
        self.gamma_init = gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired
        self.statistics_share = statistics_share
        self.at_once = at_once
