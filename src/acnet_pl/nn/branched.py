"""BranchedConv: a block that is a sum of branch layers. Most blocks are this and a list of their branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from acnet_pl.nn.arguments import check_choice
from acnet_pl.nn.branch_layers import BranchLayer, ConvShape
from acnet_pl.nn.draw import KernelDraw
from acnet_pl.nn.fusible import Branch, Fused, FusibleConv, exact, fold_norm, is_frozen
from acnet_pl.nn.fusion import sum_branches
from acnet_pl.nn.keep import kept_or
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.shortcuts import is_traced, may_add_in_place

__all__ = ["BranchedConv"]


class BranchedConv(FusibleConv):
    """The sum of branches, which have their own batch norms or, with scales instead, one batch norm after the sum.

    In eval mode it computes one convolution with the fused kernel, made anew for every batch; `keep_fused` makes it
    once for many. Without batch norms in the branches it trains with one convolution too, on the sum of the kernels
    (online, as OREPA). `explicit_branches`, hooks and parametrisations of inner layers turn both shortcuts off.

    Args:
        shape: Of the convolution.
        layers: The branches by name, the main one first.
        gamma_init: Initial γ or scale of each branch: a number, or by name.
        draw: How new kernels are drawn: "pytorch" as nn.Conv2d's, or "fan_out" (Kaiming-normal).
        paired: Draw the other branches' kernels from generators of their own, so that a network of blocks has the main
            kernels of the plain network made from the same seed.
    """

    def __init__(
        self,
        shape: ConvShape,
        layers: Mapping[str, BranchLayer],
        *,
        gamma_init: float | Mapping[str, float] = 1.0,
        draw: KernelDraw = "pytorch",
        paired: bool = True,
    ) -> None:
        check_choice("draw", draw, KernelDraw)
        super().__init__(
            shape.in_channels,
            shape.out_channels,
            (shape.size, shape.size),
            shape.stride,
            shape.padding,
            shape.dilation,
            shape.groups,
            shape.padding_mode,
        )
        self._shape = shape
        self.gamma_init = gamma_init
        self.draw: KernelDraw = draw
        self.paired = paired
        self.layers = nn.ModuleDict(layers)
        online = any(isinstance(layer.norm, ChannelScale) for layer in layers.values())
        self.register_module("norm", nn.BatchNorm2d(shape.out_channels) if online else None)
        self.reset_parameters()

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

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``."""
        norms = [module for module in self.modules() if isinstance(module, (_BatchNorm, ChannelScale))]
        if self.explicit or is_traced(x) or self._needs_calls():
            return self.forward_branches(x)
        if all(map(is_frozen, norms)):
            return self._convolve(x, *kept_or(self, self._fuse_frozen))
        if self.norm is not None:
            out: Tensor = self.norm(self._convolve(x, self._online_kernel(x), None))
            return out
        return self._sum(x, may_add_in_place(norms))

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
        return self._fuse_branches(exact)

    def _fuse_branches(self, cast: Callable[[Tensor], Tensor]) -> dict[str, Fused]:
        fused = {name: layer.fused(cast) for name, layer in self._layers()}
        return {
            name: (kernel, kernel.new_zeros(self.out_channels) if bias is None else bias)
            for name, (kernel, bias) in fused.items()
        }

    def _fuse_frozen(self) -> Fused:
        """Return the kernel and bias of the block with norms in eval mode, as exact as its own dtype is."""
        like = next(self.kernels())
        dtype = torch.promote_types(like.dtype, torch.float32)
        with torch.autocast(like.device.type, enabled=False):
            kernel, bias = sum_branches(self._fuse_branches(lambda tensor: tensor.to(dtype)).values())
            if self.norm is not None:
                kernel, bias = fold_norm(kernel, bias, self.norm)
        return kernel.to(like.dtype), bias.to(like.dtype)

    def _layers(self) -> list[tuple[str, BranchLayer]]:
        modules: dict[str, Any] = self.layers._modules
        return list(modules.items())

    def _needs_calls(self) -> bool:
        """Whether an inner layer has a hook or a parametrisation, which work only when that layer is called."""
        inner = chain.from_iterable(module.children() for module in self.modules())
        return any(
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or is_parametrized(module)
            for module in inner
        )

    def _sum(self, x: Tensor, in_place: bool) -> Tensor:
        x = self._padded(x)
        total: Tensor | None = None
        for _, layer in self._layers():
            out = layer(x)
            total = out if total is None else total.add_(out) if in_place else total + out
        assert total is not None
        return total

    def _online_kernel(self, x: Tensor) -> Tensor:
        """The sum of the kernels, in their own precision also under autocast: it is made once a step."""
        device = x.device.type
        with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
            kernels = [layer.fused(lambda tensor: tensor)[0] for _, layer in self._layers()]
        total = kernels[0]
        for kernel in kernels[1:]:
            total = total + kernel
        return total

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        padding = self._shape.zero_padding
        return F.conv2d(self._padded(x), kernel, bias, self.stride, padding, self.dilation, self.groups)

    def _padded(self, x: Tensor) -> Tensor:
        """The input, padded here once for all branches where the padding is not of zeros."""
        if self.padding_mode == "zeros" or self._shape.input_padding == (0, 0):
            return x
        height, width = self._shape.input_padding
        return F.pad(x, (width, width, height, height), mode=self.padding_mode)
