"""Whole-network folding: any module to the plain network that computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.fusion import FusionError, fuse_batch_norm
from acnet_pl.nn.surgery.copying import deep_copy, inherit_hooks, uncompiled
from acnet_pl.nn.surgery.dataflow import follow
from acnet_pl.nn.surgery.plain import activation_of, is_plain_conv, is_plain_norm
from acnet_pl.nn.surgery.trace import layers, listed
from acnet_pl.nn.surgery.units import fuse_units

__all__ = ["fuse_model", "replace_modules"]


def _warn_of_traced_blocks(model: nn.Module) -> None:
    """Say of blocks that torch.fx has taken apart that their branches stay."""
    blocks = {
        path
        for module in model.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.nodes
        for path, kind in node.meta.get("nn_module_stack", {}).values()
        if isinstance(kind, type) and issubclass(kind, FusibleConv)
    }
    if blocks:
        warnings.warn(
            f"torch.fx traced {listed(sorted(blocks))} before they were fused, so their branches stay several "
            "convolutions; fuse first and trace then: torch.fx.symbolic_trace(fuse_model(acnet))",
            stacklevel=4,
        )


@torch.no_grad()
def fuse_model(model: nn.Module, example_input: Any = None) -> nn.Module:
    """A copy of a network with every block folded into one convolution, and every batch norm into its convolution.

    Plain network and ACNet deploy to the same structure: a batch norm that was folded leaves an ``nn.Identity`` (or
    its activation, where it carries one, as timm's ``BatchNormAct2d`` does), and its convolution has a bias. A batch
    norm is folded where the data flow proves that it normalises the output of one convolution and nothing else, and
    that nothing else uses this output. Fusing the result again changes nothing. Modules of timm that re-parameterise
    themselves (RepVGG, MobileOne, FastViT, RepViT, ...) do so, in float64 and compared.

    Args:
        model: Any module, which stays as it is. What is folded must be in eval mode.
        example_input: For networks that torch.fx cannot trace (control flow that depends on data): a tensor, a tuple
            of positional arguments or a dict of keyword arguments, on the model's device. Without it some batch norms
            of such networks may be left as they are, with a warning.

    Raises:
        FusionError: A layer cannot be folded (it is in train mode, keeps no running statistics, holds NaN, ...). The
            message begins with the layer's name.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fuse_model(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    fused = fuse_units(deep_copy(uncompiled(model)))
    _warn_of_traced_blocks(fused)
    convs: dict[nn.Module, nn.Module] = {}
    for name, module in layers(fused):
        if isinstance(module, FusibleConv):
            try:
                convs[module] = module.fuse()
            except FusionError as error:
                raise FusionError(f"`{name}`: {error}" if name else str(error)) from error
            inherit_hooks(convs[module], module)
    fused = replace_modules(fused, convs)

    found = dict(layers(fused))
    if not any(is_plain_norm(layer) for layer in found.values()):
        return fused
    flow = follow(fused, example_input)
    unknown = [name for name in flow.unknown if is_plain_conv(found[name])]
    if unknown:
        warnings.warn(
            f"whether batch norms follow {listed(unknown)} cannot be told, so they are left as they are: torch.fx does "
            f"not trace the model ({flow.obstacle}); give an `example_input`, such as torch.zeros(1, 3, 224, 224)",
            stacklevel=3,
        )
    for name in sorted(flow.undecided):
        if is_plain_conv(found[name]):
            warnings.warn(f"`{name}` and its batch norm are left as they are: {flow.norm_missing[name]}", stacklevel=3)
    activations: dict[nn.Module, nn.Module] = {}
    for conv_name, norm_name in flow.norm_of.items():
        conv: nn.Module = found[conv_name]
        norm: nn.Module = found[norm_name]
        if is_plain_conv(conv) and is_plain_norm(norm) and norm.running_mean is not None:
            _fold_into(conv, norm, conv_name, norm_name)
            activations[norm] = activation_of(norm)
    return replace_modules(fused, activations)


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in others' places, under all their names; return the model, or what replaces the model itself."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in replacements:
                module._modules[name] = replacements[child]
    return replacements.get(model, model)


def _fold_into(conv: nn.Conv2d, norm: _BatchNorm, conv_name: str, norm_name: str) -> None:
    """Fold a batch norm into a plain convolution, in place."""
    if norm.training:
        raise FusionError(
            f"`{norm_name}`: it is in train mode, where batch norm uses each batch's own statistics and no fixed "
            "convolution gives the same output; call model.eval() first"
        )
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kernel, bias = fuse_batch_norm(
        exact(conv.weight),
        None if conv.bias is None else exact(conv.bias),
        exact(norm.running_mean),
        exact(norm.running_var),
        None if norm.weight is None else exact(norm.weight),
        None if norm.bias is None else exact(norm.bias),
        norm.eps,
    )
    kernel, bias = kernel.to(conv.weight), bias.to(conv.weight)
    if not (kernel.isfinite().all() and bias.isfinite().all()):
        raise FusionError(
            f"`{conv_name}`: its weights folded with batch norm `{norm_name}` hold NaN or infinite values: the "
            f"training diverged, or they overflow {kernel.dtype}"
        )
    if conv.weight.is_contiguous(memory_format=torch.channels_last):
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    trainable = any(p.requires_grad for p in [*conv.parameters(), *norm.parameters()])
    conv.weight = nn.Parameter(kernel, requires_grad=trainable)
    conv.bias = nn.Parameter(bias, requires_grad=trainable)
