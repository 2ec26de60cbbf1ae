"""ConvBuilder: what a backbone is given to build its convolutions with, and its kinds PlainConv and ACBConv."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Unpack

from acnet_pl.nn.acb import ACBlock, BranchNorm, Position
from acnet_pl.nn.arguments import ConvArguments, IntPair, Padding, PaddingMode, check_choice, pair, why_no_centre
from acnet_pl.nn.draw import KernelDraw, draw_kernel, undrawn
from acnet_pl.nn.fusible import Branch, Fused, FusibleConv, exact, kernel_of

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
        norm: Have a batch norm after the convolution.
        draw: How the new kernel is drawn: "pytorch" as nn.Conv2d's, or "fan_out" (Kaiming-normal).
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
    ) -> None:
        check_choice("draw", draw, KernelDraw)
        conv = undrawn(
            nn.Conv2d, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, False, padding_mode
        )
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
        self.conv = conv
        self.norm: _BatchNorm | None = nn.BatchNorm2d(out_channels) if norm else None
        draw_kernel(conv.weight, draw)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

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
    """Builds a backbone's convolutions. A backbone calls it and never asks which kind it was given.

    A re-parameterisable block has a builder beside it, a `BlockConv`.

    Attributes:
        draw: How the weights of a new network are drawn, its fully connected layers' included.
        builds_blocks: Whether it builds blocks at all; `convert` takes finding nothing to convert for a mistake if so.
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
            norm: Whether a batch norm directly follows in the plain network. False in pre-activation networks, where
                the plain layer then has none; a block may have its own all the same ("if any", Sect. 3.3).

        Returns:
            A module from ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, no activation.
        """

    def why_plain(self, kernel_size: int) -> str:
        """Say why a k×k convolution stays plain, "" where it becomes a block."""
        return "" if self.builds_blocks else f"stays plain by {self!r}"

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class PlainConv(ConvBuilder):
    """Plain convolution and batch norm: the baseline.

    Args:
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's and the authors', or "fan_out" (Kaiming-normal).
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

    To add a re-parameterisable block, subclass this beside the block: `kind` is the block's class, `why_plain` says
    what it leaves plain (1×1 and even kernels, unless overridden), and the attributes, set by ``__init__``, are the
    options that the block is built with.
    """

    @property
    @abstractmethod
    def kind(self) -> Callable[..., FusibleConv]:
        """The class of the blocks; called with `ConvArguments` and the builder's attributes as keywords."""

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
        shape = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        return ConvNorm(*shape, norm=norm, draw=self.draw) if self.why_plain(kernel_size) else self.block(*shape)

    def block(self, *arguments: Unpack[ConvArguments]) -> FusibleConv:
        """Build the block."""
        return self.kind(*arguments, **vars(self))

    def why_plain(self, kernel_size: int) -> str:  # noqa: D102
        return why_no_centre(kernel_size)


class ACBConv(BlockConv):
    """An ACBlock for every odd kernel of 3×3 or more; 1×1 and even kernels stay plain. Options as `ACBlock`'s.

    Args:
        horizontal: Have the 1×k branch (Table 4).
        vertical: Have the k×1 branch (Table 4).
        branch_norm: A batch norm in every branch; False is one after the sum (Table 4); "scale" is one after the sum
            and a learned factor per channel in every branch.
        asymmetric_size: Length of the 1-D kernels; None is each layer's kernel size. The article has 3 throughout.
        position: "skeleton", or "border" for the variant of Fig. 6c.
        gamma_init: Initial γ of the branches' batch norms, or scale; the authors' later CIFAR recipes have 1/3.
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's and the authors', or "fan_out" (Kaiming-normal).
        paired: Give the ACNet of a seed the square kernels that the plain network of that seed has.
        statistics_share: Share of each training batch whose statistics the branches' batch norms use; 1 is all of it.
            With 1/8 a block trains at little more than a plain layer's cost.
        at_once: Train the branches by one convolution with as many times C_out outputs and one batch norm.
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
