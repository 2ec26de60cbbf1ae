"""FusibleConv: a module that trains as several operations and equals one nn.Conv2d in eval mode."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypeIs, deprecated

from acnet_pl.nn.arguments import PaddingMode
from acnet_pl.nn.branch import Branch, branch_table, take_over
from acnet_pl.nn.fusion import FusionError, all_finite, fuse_batch_norm, sum_branches
from acnet_pl.nn.inner_layers import check_forward, check_hooks, why_other
from acnet_pl.nn.laid_out import LaidOut
from acnet_pl.nn.replaced import why_overridden, why_replaced
from acnet_pl.nn.scale import ChannelScale

__all__ = ["Branch", "Fused", "FusibleConv", "exact", "fuse_norm", "is_batch_norm", "is_frozen"]
Fused = tuple[Tensor, Tensor]
"""Kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)``."""


def exact(tensor: Tensor) -> Tensor:
    """Cast to float64, in which fusing is computed; move to the CPU if the device has no float64 (Apple's MPS)."""
    return tensor.to("cpu", torch.float64) if tensor.device.type == "mps" else tensor.double()


def is_frozen(norm: nn.Module | None) -> bool:
    """Return True if the norm treats every batch the same: None, a scale, or a batch norm in eval mode."""
    if norm is None or isinstance(norm, ChannelScale):
        return True
    return is_batch_norm(norm) and not norm.training and norm.running_mean is not None


def is_batch_norm(norm: nn.Module) -> TypeIs[_BatchNorm]:
    """Return True for a batch norm without its own forward; a subclass with one may include an activation."""
    usual = isinstance(norm, _BatchNorm) and type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return usual and "forward" not in norm.__dict__


def fuse_norm(kernel: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Fuse a batch norm or scale into a kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)``, in their dtype (Eq. 2).

    Raises:
        FusionError: The norm is not a batch norm or keeps no running statistics, so no fixed convolution equals it.
    """
    if reason := why_other(norm):
        raise FusionError(reason)
    if isinstance(norm, ChannelScale):
        return norm.scale_kernel(kernel), norm.weight.to(kernel) * (0 if bias is None else bias)
    if not is_batch_norm(norm):
        raise FusionError(
            f"its norm is a {type(norm).__name__}; only nn.BatchNorm2d, nn.SyncBatchNorm and subclasses "
            "with their forward can be fused: train with one of these, or leave this layer as it is"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise FusionError(
            "its batch norm has track_running_stats=False: it normalises by each batch's own statistics even in eval "
            "mode, which no fixed convolution can do; train with track_running_stats=True"
        )
    return fuse_batch_norm(
        kernel,
        bias,
        norm.running_mean.to(kernel),
        norm.running_var.to(kernel),
        None if norm.weight is None else norm.weight.to(kernel),
        None if norm.bias is None else norm.bias.to(kernel),
        norm.eps,
    )


class FusibleConv(LaidOut, ABC):
    """A training-time module that computes, in eval mode, what one ``nn.Conv2d`` computes.

    The module is a sum of branches, followed by one batch norm if it has a `norm`. To add a re-parameterisable block,
    define `branches` (the list), `forward_branches` (what they compute) and `fuse_branches` (what they fuse to), and
    write a `ConvBuilder` for it. Fusing, display, counting, conversion with ``init="preserve"``, `LateFuse` and the
    comparison with the fused network follow. The first branch is the main one: its kernel has the block's own shape.

    The attributes are those of ``nn.Conv2d``, and ``explicit``: if True, the block computes `forward_branches` without
    shortcuts (see `explicit_branches`).
    """

    is_plain: ClassVar[bool] = False
    """Whether the module is just a convolution with its batch norm, which every block can become."""

    norm: _BatchNorm | None
    """The batch norm after the sum of the branches, or None. Every block registers one or the other."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] | str,
        dilation: tuple[int, int],
        groups: int,
        padding_mode: PaddingMode,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.padding_mode = padding_mode
        self.explicit = False
        self.lay_out()

    @abstractmethod
    def branches(self) -> Sequence[Branch]:
        """List the branches, the main one first."""

    @abstractmethod
    def forward_branches(self, x: Tensor) -> Tensor:
        """Evaluate the branches one by one, whatever the mode: the definition of the block."""

    @abstractmethod
    def fuse_branches(self) -> dict[str, Fused]:
        """Return each branch's equivalent kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)`` in eval mode, by name.

        They are float64, differentiable in the parameters, embedded in the block's window, and exclude the `norm` after
        the sum.
        """

    @property
    def share_apart(self) -> float:
        """Return the part of a training batch, from 0 to 1, on which each branch is evaluated by itself.

        The rest of the batch is evaluated by one convolution with the sum of the branches.
        """
        return 1.0 if self.norm is None else 0.0

    def fuse_sum(self) -> Fused:
        """Return the kernel and bias of the sum of the branches, without the `norm` after it (Eq. 6-7)."""
        return sum_branches(self.fuse_branches().values())

    def fuse_kernel(self) -> Fused:
        """Return the fused kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)``, float64 and differentiable (Eq. 2)."""
        self.refuse_replaced()
        kernel, bias = self.fuse_sum()
        return (kernel, bias) if self.norm is None else fuse_norm(kernel, bias, self.norm)

    def refuse_replaced(self) -> None:
        """Raise FusionError if a method of this block was replaced, so that its branches do not tell what it does."""
        if why := why_replaced(self):
            raise FusionError(f"{why}, and computes something else than its branches; undo that")
        if why := why_overridden(type(self)):
            raise FusionError(why)

    @deprecated("fold() is now fuse_kernel(); the old name will be removed in the next version")
    def fold(self) -> Fused:
        """Call `fuse_kernel`; this is its old name."""
        return self.fuse_kernel()

    def kernels(self) -> Iterator[Tensor]:
        """Iterate over the trainable kernels, the main branch's first."""
        return (kernel for branch in self.branches() for kernel in branch.kernels)

    def norms(self) -> Iterator[_BatchNorm]:
        """Iterate over the batch norms, in the branches and after their sum."""
        return (module for module in self.modules() if isinstance(module, _BatchNorm))

    @torch.no_grad()
    def begin_as(self, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
        """Initialise the block to compute, in eval mode, what a convolution and the batch norm after it compute.

        The main branch does all the work. It takes the kernel, and its batch norm the statistics; a bias goes into the
        running mean. Without a batch norm to copy, the block's own becomes the identity in eval mode (mean 0, variance
        1 - eps, γ = 1, β = the bias). The other branches are inactive at first but learn: they have random kernels and
        γ = 0, or kernels of zeros if they have no γ.

        Args:
            conv: A convolution of the block's shape.
            norm: The batch norm after it; None if there is none.

        Raises:
            TypeError: The block has no batch norm to take the statistics.
        """
        main, *others = self.branches()
        target = main.norm if self.norm is None else self.norm
        if not isinstance(target, _BatchNorm):
            raise TypeError(
                f"init='preserve' needs a batch norm after the main branch or the sum of a {type(self).__name__}; use "
                "init='scratch'"
            )
        main.kernels[0].copy_(conv.weight)
        if isinstance(main.norm, ChannelScale):
            main.norm.reset_parameters()
        take_over(target, conv, norm)
        trainable = conv.weight.requires_grad or (norm is not None and any(p.requires_grad for p in norm.parameters()))
        for branch in others:
            branch.turn_off(conv.weight, trainable)

    def get_equivalent_kernel_bias(self) -> Fused:
        """Return the equivalent convolution's kernel and bias, differentiable, in the block's dtype and on its device.

        The name comes from the authors' code. Running statistics are used even in train mode.
        """
        kernel, bias = self.fuse_kernel()
        like = next(self.kernels())
        return kernel.to(like), bias.to(like)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Fuse the block into a new convolution with bias, and leave the block unchanged (Eq. 6-8).

        The weights are computed in float64 and cast back. The result keeps device, dtype, memory format, training flag,
        padding, dilation, groups and trainability. timm's ``reparameterize_model`` finds this method by its name.

        Raises:
            FusionError: The block is in train mode, keeps no running statistics, holds NaN or infinite values, or the
                fused values do not fit its dtype.
        """
        if any(norm.training for norm in self.norms()):
            raise FusionError(
                "it is in train mode, where batch norm uses each batch's own statistics and no fixed convolution gives "
                "the same output; call model.eval() first"
            )
        self._check_finite()
        kernel, bias = self.get_equivalent_kernel_bias()
        if not all_finite(kernel, bias):
            raise FusionError(
                f"its fused weights are not finite in {kernel.dtype}: they overflow, or a variance + eps is not "
                "positive; fuse model.float(), and if that fails too, a checkpoint with sound statistics"
            )
        # Built on the meta device so that fusing draws no random numbers.
        conv = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            device="meta",
        )
        trainable = any(parameter.requires_grad for parameter in self.parameters())
        if next(self.kernels()).is_contiguous(memory_format=torch.channels_last):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        # Cloned because without a norm to fuse the kernel is the block's own.
        conv.weight = nn.Parameter(kernel.clone(), requires_grad=trainable)
        conv.bias = nn.Parameter(bias.clone(), requires_grad=trainable)
        check_hooks(self, self.forward_branches, conv)
        check_forward(self, conv)
        return conv.train(self.training)

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise FusionError: ``torch.jit.script``, which calls this method, can compile only a fused network."""
        raise FusionError(
            f"torch.jit.script cannot compile a {type(self).__name__}; script the fused network, "
            "fuse_model(acnet.eval())"
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Load the tensors of a block, or of the plain layer that replaced it when it was fused during training.

        In the second case the block first becomes that layer, so such checkpoints load into a newly built network.
        """
        if not self.is_plain:
            from acnet_pl.nn.surgery.late_checks import become_what_is_loaded  # which imports this module

            become_what_is_loaded(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_finite(self) -> None:
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            if not all_finite(tensor):
                bad = int((~tensor.isfinite()).sum())
                raise FusionError(
                    f"`{name}` holds {bad} NaN or infinite value{'s' * (bad > 1)} of {tensor.numel()}; the training "
                    "diverged: fuse a checkpoint from before that"
                )

    def __repr__(self) -> str:
        """Return the usual representation, without layers that are None."""
        return re.sub(r"\n *\(\w+\): None(?=\n)", "", super().__repr__())

    def _repr_html_(self) -> str:
        """Return the branches as a table for notebooks."""
        return branch_table(f"{type(self).__name__}({self.extra_repr()})", self.branches(), self.norm)

    def extra_repr(self) -> str:
        """Return the convolution's arguments, as nn.Conv2d shows them."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in [("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")]:
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return text
