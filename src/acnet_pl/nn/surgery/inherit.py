"""What a block inherits from the convolution and batch norm whose place it takes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.acb import ACBlock
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.plain import inherit_hooks

__all__ = ["inherit_layer", "inherit_values"]


@torch.no_grad()
def inherit_layer(block: FusibleConv, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
    """Give a new block, in place, all but the values of the layers it replaces.

    That is dtype, device, memory format, training flags, hooks, whether parameters are trainable, and the kind, eps,
    momentum and affinity of the batch norm. A batch norm whose γ is zero throughout, as that which begins a residual
    branch at zero, gives γ = 0 to the branches.
    """
    weight = conv.weight
    block.to(device=weight.device, dtype=weight.dtype)
    if norm is not None:
        for module in list(block.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm):
                    setattr(module, name, _like(norm, child))
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        block.to(memory_format=torch.channels_last)

    block.train(conv.training)
    block.requires_grad_(weight.requires_grad)
    if norm is not None:
        for own in block.norms():
            own.train(norm.training)
            for name, parameter in own.named_parameters():
                parameter.requires_grad_(getattr(norm, name).requires_grad)
    inherit_hooks(block, conv)


@torch.no_grad()
def inherit_values(block: FusibleConv, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
    """Let a block that has gone through `inherit_layer` compute, in eval mode, what the layers it replaces compute.

    The square kernel and its batch norm take the values given; a bias goes into the running mean. A convolution
    without a batch norm gives its block one that is the identity in eval mode (mean 0, variance 1 - eps, γ = 1, β = the
    bias). The other branches start inactive, yet learn: at first their γ, which is 0, and with it their kernels, which
    are random; with one batch norm after the sum, their kernels, which are 0.

    Raises:
        TypeError: The block is no ACBlock.
    """
    if not isinstance(block, ACBlock) or block.square is None:
        raise TypeError(f"init='preserve' knows how to begin an ACBlock, not a {type(block).__name__}; use 'scratch'")
    block.square.weight.copy_(conv.weight)
    if block.square_scale is not None:
        nn.init.ones_(block.square_scale.weight)
    target = block.square_norm if block.norm is None else block.norm
    assert target is not None
    _take_statistics(target, conv, norm)

    trainable = conv.weight.requires_grad or (norm is not None and any(p.requires_grad for p in norm.parameters()))
    for branch in ("horizontal", "vertical"):
        kernel, own = getattr(block, branch), getattr(block, f"{branch}_norm")
        if kernel is None:
            continue
        if own is None:
            nn.init.zeros_(kernel.weight)
            continue
        if own.weight is None:  # without γ the branch could not start at zero
            own.affine = True
            own.weight, own.bias = (nn.Parameter(torch.zeros_like(conv.weight[:, 0, 0, 0])) for _ in range(2))
        nn.init.zeros_(own.weight)
        own.requires_grad_(trainable)


def _like(norm: _BatchNorm, fresh: _BatchNorm) -> _BatchNorm:
    """A batch norm of the given one's kind, as freshly initialised as the block's own."""
    arguments = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if isinstance(norm, nn.SyncBatchNorm):
        made: _BatchNorm = nn.SyncBatchNorm(*arguments, process_group=norm.process_group)
    else:
        made = nn.BatchNorm2d(*arguments)
    tensors = [*norm.parameters(), *(b for b in norm.buffers() if b.is_floating_point())]
    if tensors:
        made.to(tensors[0])
    elif fresh.weight is not None:
        made.to(fresh.weight)
    if norm.affine and fresh.weight is not None and made.weight is not None:
        made.weight.copy_(fresh.weight * 0 if not norm.weight.is_meta and not norm.weight.any() else fresh.weight)
    return made


def _take_statistics(target: _BatchNorm, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
    if norm is not None:
        target.load_state_dict({key: value for key, value in norm.state_dict().items() if key in target.state_dict()})
        if conv.bias is not None and target.running_mean is not None:
            target.running_mean -= conv.bias
        return
    nn.init.ones_(target.weight)
    if conv.bias is not None:
        target.bias.copy_(conv.bias)
    if target.running_var is not None:
        target.running_var.fill_(1 - target.eps)
