"""ACBlock: the asymmetric convolution block (ICCV 2019, https://arxiv.org/abs/1908.03930, Sect. 3.3, Fig. 3).

Ding, Guo, Ding and Han: ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import deprecated

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode, check_choice, check_finite
from acnet_pl.nn.at_once import track_alike
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import Device, KernelDraw, branch_generator, draw_kernel, placed
from acnet_pl.nn.fusible import Branch, Fused, FusibleConv, exact, fuse_norm, is_frozen
from acnet_pl.nn.geometry import BranchGeometry
from acnet_pl.nn.inner_layers import kernel_of
from acnet_pl.nn.keep import kept_or
from acnet_pl.nn.kernel_sum import frozen_scales_and_shift
from acnet_pl.nn.one_conv import Layer, fuse_layers, sum_scaled, train_at_once, train_by_share
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.share import images_in_share, normalise_branches, share_fraction
from acnet_pl.nn.shortcuts import is_traced, may_add_in_place, needs_calls

__all__ = ["ACBlock", "BranchNorm", "Position"]

_BRANCHES = ("square", "horizontal", "vertical")
BranchNorm = bool | Literal["scale"]
Position = Literal["skeleton", "border"]


class ACBlock(FusibleConv):
    r"""Asymmetric Convolution Block: k×k + 1×k + k×1 convolutions, each with its own batch norm, summed (Sect. 3.3).

    The block replaces a square convolution *together with the batch norm that follows it, if any*. After training,
    `fuse` returns one ``nn.Conv2d`` with bias that computes exactly the same.

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, as ``nn.Conv2d`` with the same arguments.

    In eval mode the block computes *one* convolution. It fuses its kernel for every batch, or once within `keep_fused`.
    Without batch norms in its branches it also trains with one convolution, on the sum of the kernels.
    `explicit_branches` turns both off. So does a hook or parametrisation of a branch's layer (pruning, spectral norm).

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, odd and at least 3 (or a pair of equal numbers).
        stride: As nn.Conv2d's.
        padding: As nn.Conv2d's: an int, a pair, "same" or "valid".
        dilation: As nn.Conv2d's.
        groups: As nn.Conv2d's.
        padding_mode: As nn.Conv2d's: "zeros", "reflect", "replicate" or "circular".
        horizontal: Whether the block has the 1×k branch (Table 4).
        vertical: Whether the block has the k×1 branch (Table 4).
        branch_norm: True is a batch norm in every branch (Table 4, "BN in branch"). False is one batch norm after the
            sum. "scale" is one batch norm after the sum, and a learned factor per channel in every branch, as in OREPA:
            the branches learn differently, at nearly the training cost of a plain convolution.
        asymmetric_size: Length of the 1-D kernels; None is ``kernel_size``. The article uses 3 with 5×5 and 11×11.
        position: Where the 1-D kernels lie: on the "skeleton" (the central row and column) or on the "border" (the
            bottom row and right column, Fig. 6c).
        gamma_init: Initial γ of the branches' batch norms, or initial scale of the branches. A new block with n
            branches and a norm in each has outputs √n · γ times as large as a plain layer's: 0.58 with all three at
            γ = 1/3 (the authors' choice on CIFAR), 1 at 1/√3, 1.73 at 1.
        draw: New kernels are drawn "pytorch", as by nn.Conv2d and the authors' code, or "fan_out" (Kaiming-normal).
        paired: Draw the 1-D kernels from generators of their own, so that a plain network and an ACNet built with the
            same seed have the same square kernels.
        statistics_share: Share of each training batch, its first images, on which branches are evaluated one by one. 1
            is the exact block. Below 1 it gives their scales relative to each other, one convolution of all images the
            rest: 1/8 takes 1.21 times the multiplications of a plain 3×3 layer instead of 1.67. Shuffle the batches.
        at_once: Train all branches with one convolution of zero-padded kernels and one batch norm: the same with 7
            instead of 16 operations on feature maps a step, but 3k/(k + 2) times the multiplications. It may pay for
            small maps on a GPU; that is not measured, so no device chooses it: time both. Blocks with groups, or with
            frozen, synchronised or differing norms, still evaluate branch by branch.
        device: Where the tensors live; None is PyTorch's default device.
        dtype: Their dtype; None is PyTorch's default.

    Raises:
        ValueError: An argument is out of range; the message names it and says what it must be.

    Examples:
        >>> import torch
        >>> block = ACBlock(8, 16, 3, padding=1).eval()
        >>> x = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(block(x), block.fuse()(x), atol=1e-5)
        True
    """

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
        device: Device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = ConvShape.of(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        k = shape.size
        length = k if asymmetric_size is None else asymmetric_size
        check_choice("position", position, Position)
        check_choice("draw", draw, KernelDraw)
        check_finite("gamma_init", gamma_init)
        if branch_norm not in (True, False, "scale"):
            raise ValueError(f"`branch_norm` (={branch_norm!r}) must be True, False or 'scale'")
        if length % 2 == 0 or not 3 <= length <= k:
            raise ValueError(
                f"`asymmetric_size` (={length}) must be odd, at least 3 and at most `kernel_size` (={k}); leave it out "
                "for 1-D kernels as long as the square one"
            )
        if position == "border" and length != k:
            raise ValueError(
                f"position='border' needs 1-D kernels as long as the border: `asymmetric_size` (={length}) must equal "
                f"`kernel_size` (={k}); leave it out"
            )
        super().__init__(
            in_channels, out_channels, (k, k), shape.stride, shape.padding, shape.dilation, groups, padding_mode
        )
        self._shape = shape
        self.asymmetric_size = length
        self.position = position
        self.gamma_init = gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired
        self.branch_norm = branch_norm
        self.statistics_share = statistics_share
        self.at_once = at_once

        line, start = (k - 1 if position == "border" else k // 2), (k - length) // 2
        places = ((k, k, (0, 0)), (1, length, (line, start)), (length, 1, (start, line)))
        self.geometry = {name: shape.geometry(*place) for name, place in zip(_BRANCHES, places, strict=True)}
        with placed(self, device, dtype):
            for name, wanted in zip(_BRANCHES, (True, horizontal, vertical), strict=True):
                norm = nn.BatchNorm2d(out_channels) if wanted and branch_norm is True else None
                scale = ChannelScale(out_channels) if wanted and branch_norm == "scale" else None
                self.register_module(name, self._branch_conv(self.geometry[name]) if wanted else None)
                self.register_module(f"{name}_norm", norm)
                self.register_module(f"{name}_scale", scale)
            self.register_module("norm", None if branch_norm is True else nn.BatchNorm2d(out_channels))
            self.register_module("fused", None)

    square: nn.Conv2d | None
    horizontal: nn.Conv2d | None
    vertical: nn.Conv2d | None
    square_norm: _BatchNorm | None
    horizontal_norm: _BatchNorm | None
    vertical_norm: _BatchNorm | None
    square_scale: ChannelScale | None
    horizontal_scale: ChannelScale | None
    vertical_scale: ChannelScale | None
    norm: _BatchNorm | None
    fused: nn.Conv2d | None

    @property
    def statistics_share(self) -> float:
        """Return the share of a training batch whose statistics the branches' norms use; it may be set at any time."""
        return float(self._share)

    @statistics_share.setter
    def statistics_share(self, share: float) -> None:
        self._share = share_fraction(share, self.branch_norm)

    @property
    def share_apart(self) -> float:
        """Return the share of a training batch on which branches are evaluated one by one, not only as their sum."""
        return self.statistics_share if self.norm is None else 0.0

    def reset_parameters(self) -> None:
        """Draw new kernels and reset the norms, those in the branches to γ = ``gamma_init``."""
        main: Tensor | None = None
        for name, conv, norm, _ in self._layers():
            generator = branch_generator(main, name) if self.paired and main is not None else None
            draw_kernel(conv.weight, self.draw, generator)
            main = conv.weight if main is None else main
            if isinstance(norm, (_BatchNorm, ChannelScale)):
                norm.reset_parameters()
                if norm.weight is not None:
                    nn.init.constant_(norm.weight, self.gamma_init)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        if self.explicit or self.fused is not None or is_traced(input) or needs_calls(self._modules.values()):
            return self.forward_branches(input)
        x, layers = self._shape.pad(input), self._layers()
        norms = [layer.norm for layer in layers]
        if is_frozen(self.norm) and all(map(is_frozen, norms)):
            return self._shape.convolve(x, *kept_or(self, self._fuse_frozen))
        if self.norm is not None:
            return self._call(self.norm, self._shape.convolve(x, sum_scaled(layers, frozen_scales_and_shift(norms)[0])))
        at_once = self.at_once and self.groups == 1
        if (count := images_in_share(x, self._share, norms)) is not None:
            return train_by_share(self._shape, layers, x, count, at_once)
        if at_once and x.dim() == 4 and track_alike(norms):
            return train_at_once(self._shape, layers, x)
        return self._sum_branches(x, in_place=may_add_in_place(norms))

    def forward_branches(self, x: Tensor) -> Tensor:
        """Evaluate the branches one by one, whatever the mode: the definition of the block (left side of Eq. 8)."""
        if self.fused is not None:
            return self._call(self.fused, x)
        total = self._sum_branches(self._shape.pad(x))
        return total if self.norm is None else self._call(self.norm, total)

    def fuse_branches(self) -> dict[str, Fused]:
        """Return each branch's kernel, embedded in the k×k window, and bias, in float64 (Eq. 2 and 3)."""
        if self.fused is not None and self.fused.bias is not None:
            return {"fused": (exact(self.fused.weight), exact(self.fused.bias))}
        branches = {}
        for name, conv, norm, geometry in self._layers():
            kernel, bias = exact(kernel_of(conv)), exact(conv.weight.new_zeros(self.out_channels))
            if norm is not None:
                kernel, bias = fuse_norm(kernel, bias, norm)
            branches[name] = geometry.embed(kernel), bias
        return branches

    def branches(self) -> list[Branch]:
        """List the square, horizontal and vertical branches that exist; after in-place fusing, the fused one."""
        if self.fused is not None:
            return [Branch("fused", _title(self.fused), (self.fused.weight,), None)]
        return [Branch(name, _title(conv), (conv.weight,), norm) for name, conv, norm, _ in self._layers()]

    @deprecated(
        "switch_to_deploy() will be removed in the next version; use fuse(), which changes nothing, or fuse_model()"
    )
    def switch_to_deploy(self) -> None:
        """Replace the branches with the fused convolution, in place. Prefer `fuse`, which leaves the block unchanged.

        Raises:
            FusionError: As `fuse`.
        """
        if self.fused is None:
            self.fused = self.fuse()
            for name in self._modules.keys() - {"fused"}:
                setattr(self, name, None)

    def extra_repr(self) -> str:
        """Return the convolution's arguments, and the options that differ from the article's block."""
        text = super().extra_repr()
        if self.asymmetric_size != self.kernel_size[0]:
            text += f", asymmetric_size={self.asymmetric_size}"
        return text + (", position='border'" if self.position == "border" else "")

    def _layers(self) -> list[Layer]:
        """List the branches, the square one first."""
        layers: dict[str, Any] = self._modules  # read directly: an eval forward costs little more than this look-up
        return [
            Layer(name, layers[name], layers[f"{name}_norm"] or layers[f"{name}_scale"], self.geometry[name])
            for name in _BRANCHES
            if layers[name] is not None
        ]

    def _branch_conv(self, geometry: BranchGeometry) -> nn.Conv2d:
        channels, steps = (self.in_channels, self.out_channels), (self.stride, geometry.padding, self.dilation)
        return nn.Conv2d(*channels, geometry.size, *steps, self.groups, bias=False)

    def _sum_branches(self, x: Tensor, in_place: bool = False) -> Tensor:
        layers = self._layers()
        norms = [layer.norm for layer in layers]
        if (count := images_in_share(x, self._share, norms)) is not None:
            outputs = [self._call(conv, at.pad_or_crop(x)) for _, conv, _, at in layers]
            return normalise_branches(norms, outputs, count)
        total: Tensor | None = None
        for _, conv, norm, geometry in layers:
            out = self._call(conv, geometry.pad_or_crop(x))
            out = out if norm is None else self._call(norm, out)
            total = out if total is None else total.add_(out) if in_place else total + out
        assert total is not None
        return total

    def _fuse_frozen(self) -> Fused:
        return fuse_layers(self._layers(), self.norm)

    @staticmethod
    def _call(module: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = module(x)
        return out


def _title(conv: nn.Conv2d) -> str:
    return "×".join(map(str, conv.kernel_size))
