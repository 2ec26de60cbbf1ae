"""inherit_layer: give a block the settings of the convolution and batch norm that it replaces."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.surgery.copying import inherit_hooks

__all__ = ["inherit_layer"]


@torch.no_grad()
def inherit_layer(block: FusibleConv, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
    """Copy all settings, but no values, of the replaced layers to a new block, in place.

    The settings are dtype, device, memory format, training flags, hooks and trainability, and the batch norm's kind,
    eps, momentum and ``affine``. One value is kept: if all γ of the batch norm are zero, as at the end of a residual
    branch that starts at zero, the block's last γ are zero too.
    """
    weight = conv.weight
    block.to(device=weight.device, dtype=weight.dtype)
    if norm is not None:
        zero = norm.affine and not norm.weight.is_meta and not norm.weight.any()
        last = [branch.norm for branch in block.branches()] if block.norm is None else [block.norm]
        for module in list(block.modules()):
            for name, child in module.named_children():
                if isinstance(child, _BatchNorm):
                    setattr(module, name, _like(norm, child, zero and child in last))
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


def _like(norm: _BatchNorm, fresh: _BatchNorm, zero: bool) -> _BatchNorm:
    """Return a batch norm of the given one's kind, initialised as the block's own, or with γ = 0."""
    arguments = (fresh.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
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
        made.weight.copy_(fresh.weight * 0 if zero else fresh.weight)
    return made
