"""What late fusing asks of blocks before it changes any, and blocks that become plain when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn.conv import ConvNorm
from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.late import blocks_of, fuse_block, survivors
from acnet_pl.nn.surgery.ties import ties

__all__ = ["become_what_is_loaded", "refuse_unfusable"]

_PLAIN = frozenset(ConvNorm(1, 1, 1, device="meta").state_dict())
"""Names of a plain layer's tensors."""


def refuse_unfusable(network: nn.Module, whole: nn.Module) -> None:
    """Raise an error if a block of a network cannot become a plain layer while it trains.

    Args:
        network: The network whose blocks are to be fused.
        whole: The module that holds the network and everything that may share its tensors.

    Raises:
        FusionError: The message names the block: it cannot be fused, its kernels are frozen in part, its main kernel or
            batch norm belongs to something else, too, or its tensors have the names of a plain layer's.
    """
    names = {module: name for name, module in whole.named_modules()}
    holders: dict[nn.Module, list[nn.Module]] = {}
    for module in names:
        for child in module.children():
            holders.setdefault(child, []).append(module)
    tied = ties(whole)
    for block in blocks_of(network):
        try:
            block.refuse_replaced()
            _refuse_shared(block, holders, tied)
            block.fuse_sum()
            if len({kernel.requires_grad for kernel in block.kernels()}) > 1:
                raise FusionError(
                    "some of its kernels are frozen and others are not, and the plain layer has one for all; freeze "
                    "all of them or none"
                )
            if block.state_dict().keys() <= _PLAIN:
                raise FusionError(
                    "its tensors have the names of a plain layer's (conv.weight, norm.weight, ...), so a checkpoint "
                    "would not tell which of both it holds; give the submodules of the block other names"
                )
        except FusionError as error:
            raise FusionError(f"`{names[block]}` cannot be fused during training: {error}") from error


def become_what_is_loaded(block: FusibleConv, state: Mapping[str, Any], prefix: str) -> None:
    """Turn a block in place into a plain layer if a state has a plain layer's tensors for it, and not the block's."""
    found = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    if "conv.weight" in found and found <= _PLAIN and not found >= block.state_dict().keys():
        unit = torch.ones(block.out_channels, dtype=torch.float64)
        layer = fuse_block(block, (0 * unit, unit))
        block.__class__ = type(layer)  # as torch's own lazy modules do when they are loaded
        block.__dict__ = layer.__dict__


def _refuse_shared(
    block: FusibleConv, holders: Mapping[nn.Module, list[nn.Module]], tied: Mapping[nn.Module, Mapping[str, str]]
) -> None:
    """Raise FusionError if what late fusing overwrites in a block is used elsewhere, too."""
    inside = {*block.modules()}
    weight, norm = survivors(block)
    overwritten: set[Tensor] = {weight, *norm.parameters(), *norm.buffers()}
    for name, module in block.named_modules():
        own = [*module._parameters.items(), *module._buffers.items()]
        changed = [key for key, tensor in own if tensor is not None and tensor in overwritten]
        elsewhere = [holder for holder in holders.get(module, []) if holder not in inside]
        if changed and elsewhere and module is not block:
            raise FusionError(
                f"its `{name}` is a layer of a {type(elsewhere[0]).__name__}, too, which would change with it; give "
                "each a layer of its own"
            )
        if shared := [tied[module][key] for key in changed if key in tied.get(module, {})]:
            raise FusionError(
                f"in its `{name or 'tensors'}`, {shared[0]}, which would change with it; give each its own"
            )
