"""BranchedConv and BranchedBuilder: bases for blocks that are a sum of branch layers, as most are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.arguments import IntPair, Padding, PaddingMode, check_choice, check_finite
from acnet_pl.nn.branch_layers import BranchLayer
from acnet_pl.nn.chain_branches import IdentityBasedConv, InnerNorm
from acnet_pl.nn.conv import BlockConv
from acnet_pl.nn.conv_shape import ConvShape
from acnet_pl.nn.draw import Device, KernelDraw, placed
from acnet_pl.nn.fusible import Branch, Fused, FusibleConv, is_frozen
from acnet_pl.nn.keep import kept_or
from acnet_pl.nn.kernel_sum import fuse_frozen
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.shortcuts import is_traced, may_add_in_place, needs_calls

__all__ = ["BranchedBuilder", "BranchedConv"]


class BranchedConv(FusibleConv):
    """A sum of branches, each with its own batch norm, or each with a scale and one batch norm after the sum.

    A subclass defines its branches in `branch_layers` and needs nothing else.

    Shapes: ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, as ``nn.Conv2d`` with the same arguments.

    In eval mode the block computes one convolution. It fuses its kernel for every batch, or only once within
    `keep_fused`. A block without batch norms in its branches also trains with one convolution, on the sum of the
    kernels (online, as OREPA). `explicit_branches`, hooks and parametrisations of inner layers turn both shortcuts off.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, odd and at least 3, or 1 if the block allows it.
        stride: As nn.Conv2d's.
        padding: As nn.Conv2d's.
        dilation: As nn.Conv2d's.
        groups: As nn.Conv2d's.
        padding_mode: As nn.Conv2d's.
        gamma_init: Initial γ or scale of each branch's last layer; None is the value of the block's article.
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d, or "fan_out" (Kaiming-normal).
        paired: Draw the other branches' kernels from generators of their own, so that a network of blocks has the same
            main kernels as the plain network built with the same seed.
        device: Where the tensors live; None is PyTorch's default device.
        dtype: Their dtype; None is PyTorch's default.
        options: Options of the block's own, the further parameters of its `branch_layers`.

    Raises:
        ValueError: An argument is out of range, or the first branch is not the k×k convolution.
        TypeError: The block has no such option.
    """

    pointwise: ClassVar[bool] = False
    """Whether the block also exists for 1×1 kernels."""
    scales: ClassVar[float | Mapping[str, float]] = 1.0
    """The article's initial γ or scale of the branches: one for all, or one for each name."""

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
        gamma_init: float | None = None,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        check_choice("draw", draw, KernelDraw)
        arguments = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        shape = ConvShape.of(*arguments, pointwise=self.pointwise)
        size = (shape.size, shape.size)
        super().__init__(
            in_channels, out_channels, size, shape.stride, shape.padding, shape.dilation, groups, padding_mode
        )
        self._shape = shape
        self.gamma_init = self.scales if gamma_init is None else gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired
        with placed(self, device, dtype):
            self.layers = nn.ModuleDict(self.branch_layers(shape, **options))
            self._check_branches()
            online = any(isinstance(layer.norm, ChannelScale) for layer in self.layers.values())
            self.register_module("norm", nn.BatchNorm2d(out_channels) if online else None)

    def _check_branches(self) -> None:
        main = next((layer for _, layer in self._layers()), None)
        window = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        kernels = () if main is None else main.kernels()
        if [kernel.shape for kernel in kernels] != [window]:
            what = "no branch" if main is None else f"`{main.title}` first"
            raise ValueError(
                f"{type(self).__name__}.branch_layers gives {what}, and must give a ConvBranch(shape) of the whole "
                "window first, whose kernel the block starts from"
            )
        if not isinstance(self.gamma_init, (int, float)):
            scales = self.gamma_init if isinstance(self.gamma_init, Mapping) else {}
            if missing := self.layers.keys() - scales.keys():
                raise ValueError(
                    f"`gamma_init` (={self.gamma_init!r}) must be a number, or a dict with one for each branch; it has "
                    f"none for {', '.join(sorted(missing))}"
                )
        scales = {"": self.gamma_init} if isinstance(self.gamma_init, (int, float)) else self.gamma_init
        for name, scale in scales.items():
            check_finite(f"gamma_init[{name!r}]" if name else "gamma_init", scale)

    @abstractmethod
    def branch_layers(self, shape: ConvShape, *args: Any, **options: Any) -> dict[str, BranchLayer]:
        """Build the branches by name, the main one first; further parameters are the block's own options."""

    @property
    def share_apart(self) -> float:
        """Return the share of a training batch on which branches are evaluated one by one, not only as their sum."""
        return 0.0 if self.norm is not None and list(self.norms()) == [self.norm] else 1.0

    def reset_parameters(self) -> None:
        """Draw new kernels and reset the norms, the branches' last ones to γ = ``gamma_init``."""
        main: Tensor | None = None
        for name, layer in self._layers():
            layer.draw(self.draw, main if self.paired else None, name)
            main = layer.kernels()[0] if main is None else main
            gamma = self.gamma_init if isinstance(self.gamma_init, (int, float)) else self.gamma_init[name]
            if layer.norm.weight is not None:
                nn.init.constant_(layer.norm.weight, gamma)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        x = input  # named as nn.Conv2d's argument
        norms = [module for module in self.modules() if isinstance(module, (_BatchNorm, ChannelScale))]
        if self.explicit or is_traced(x) or self._needs_calls():
            return self.forward_branches(x)
        if all(map(is_frozen, norms)):
            return self._shape.convolve(self._shape.pad(x), *kept_or(self, self._fuse_frozen))
        if self.norm is None:
            return self._sum(x, may_add_in_place(norms))
        if all(is_frozen(norm) for norm in norms if norm is not self.norm):
            total = self._shape.convolve(self._shape.pad(x), *self._fuse(lambda tensor: tensor, None))
        else:
            total = self._sum(x, in_place=False)
        out: Tensor = self.norm(total)
        return out

    def forward_branches(self, x: Tensor) -> Tensor:
        """Evaluate the branches one by one, whatever the mode: the definition of the block."""
        total = self._sum(x, in_place=False)
        if self.norm is None:
            return total
        out: Tensor = self.norm(total)
        return out

    def branches(self) -> list[Branch]:
        """List the branches, the main one first."""
        return [Branch(name, layer.title, layer.kernels(), layer.norm) for name, layer in self._layers()]

    def fuse_branches(self) -> dict[str, Fused]:
        """Return each branch's kernel in the k×k window and bias, in float64."""
        fused = {name: layer.fused() for name, layer in self._layers()}
        return {
            name: (kernel, kernel.new_zeros(self.out_channels) if bias is None else bias)
            for name, (kernel, bias) in fused.items()
        }

    def _fuse_frozen(self) -> Fused:
        """Return the fused kernel and bias of a block whose norms are in eval mode, in the block's own precision."""
        dtype = torch.promote_types(next(self.kernels()).dtype, torch.float32)
        kernel, bias = self._fuse(lambda tensor: tensor.to(dtype), self.norm)
        return kernel, kernel.new_zeros(self.out_channels) if bias is None else bias

    def _fuse(self, cast: Callable[[Tensor], Tensor], after: nn.Module | None) -> tuple[Tensor, Tensor | None]:
        """Fuse branches with frozen norms and the norm ``after`` them, in their own precision even under autocast."""
        like, layers = next(self.kernels()), [layer for _, layer in self._layers()]
        device = like.device.type
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            kernels, biases = zip(*(layer.compose(cast) for layer in layers), strict=True)
            places = [layer.geometry for layer in layers]
            kernel, bias = fuse_frozen(kernels, biases, [layer.norm for layer in layers], places, after)
        return kernel.to(like.dtype), None if bias is None else bias.to(like.dtype)

    def _layers(self) -> list[tuple[str, BranchLayer]]:
        modules: dict[str, Any] = self.layers._modules
        return list(modules.items())

    def _needs_calls(self) -> bool:
        """Return True if the shortcuts would pass over what an inner layer does when it is called."""
        inner = chain.from_iterable(module.children() for module in self.modules())
        return needs_calls(inner, nn.ModuleDict, BranchLayer, InnerNorm, IdentityBasedConv)

    def _sum(self, x: Tensor, in_place: bool) -> Tensor:
        x = self._shape.pad(x)
        total: Tensor | None = None
        for _, layer in self._layers():
            out = layer(x)
            total = out if total is None else total.add_(out) if in_place else total + out
        assert total is not None
        return total


class BranchedBuilder(BlockConv):
    """Builds `BranchedConv` blocks of one `kind`, with a batch norm in every branch; 1×1 and even kernels stay plain.

    Args:
        gamma_init: Initial γ of the last batch norm of each branch; the articles use 1.
        draw: Distribution of new kernels: "pytorch" as in nn.Conv2d and the authors' code, or "fan_out"
            (Kaiming-normal).
        paired: Give the network the same k×k kernels as the plain network built with the same seed.
    """

    def __init__(self, gamma_init: float = 1.0, draw: KernelDraw = "pytorch", paired: bool = True) -> None:
        self.gamma_init = gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired
