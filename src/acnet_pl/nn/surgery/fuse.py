"""Fuse whole networks: turn any module into the plain network that computes the same."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.affine import fuse_after, fuse_before
from acnet_pl.nn.surgery.checking import changed_path
from acnet_pl.nn.surgery.copying import deep_copy, inherit_hooks, light_copy, refuse_equal, refuse_lazy, uncompiled
from acnet_pl.nn.surgery.dataflow import Dataflow, follow
from acnet_pl.nn.surgery.fuse_report import FuseReport, report_on
from acnet_pl.nn.surgery.hooks import refuse_global_hooks
from acnet_pl.nn.surgery.plain import activation_of
from acnet_pl.nn.surgery.plan import plan_fusing, why_layer_stays, why_norm_stays
from acnet_pl.nn.surgery.replacing import replace_modules
from acnet_pl.nn.surgery.trace import layers, listed
from acnet_pl.nn.surgery.units import fuse_units

__all__ = ["fuse_model", "fuse_report", "fuse_with_report"]


def _warn_of_traced_blocks(model: nn.Module) -> None:
    """Warn of blocks that torch.fx traced into their branches, and of scripts, neither of which can be fused."""
    compiled = [name or type(module).__name__ for name, module in model.named_modules() if _is_scripted(module)]
    if compiled:
        warnings.warn(
            f"`{compiled[0]}` was compiled by torch.jit, so nothing in it can be fused; fuse first, then script",
            stacklevel=5,
        )
    nodes = [node for module in model.modules() if isinstance(module, fx.GraphModule) for node in module.graph.nodes]
    blocks = {
        path
        for node in nodes
        for path, kind in node.meta.get("nn_module_stack", {}).values()
        if issubclass(_class_of(kind), FusibleConv)
    }
    norms = [node.name for node in nodes if node.op == "call_function" and "batch_norm" in str(node.target)]
    if blocks:
        warnings.warn(
            f"torch.fx traced {listed(sorted(blocks))} before they were fused, so their branches stay several "
            "convolutions; fuse first, then trace or export, as in torch.fx.symbolic_trace(fuse_model(acnet))",
            stacklevel=5,
        )
    elif norms:
        warnings.warn(
            f"{listed(norms)}: batch norms that a trace or export has made operations of, which stay; fuse first, "
            "then trace or export",
            stacklevel=5,
        )


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _class_of(kind: Any) -> type:
    """Return a class by what an fx graph says of it: the class or, once exported, its name."""
    if isinstance(kind, str):
        module, _, name = kind.rpartition(".")
        kind = getattr(sys.modules.get(module), name, object)
    return kind if isinstance(kind, type) else object


@torch.no_grad()
def fuse_model(model: nn.Module, example_input: Any = None) -> nn.Module:
    """Return a copy of a network in which every block, and every batch norm that allows it, is fused.

    A plain network and its ACNet fuse to the same structure: each fused batch norm becomes an ``nn.Identity`` (or its
    activation if it has one, as timm's ``BatchNormAct2d`` has), and its convolution has a bias. A batch norm is fused
    into the layers before it or after it, if the data flow proves that their tensors go nowhere else; `fuse_report`
    lists each case and the reason for every batch norm that stays. Fusing the result again changes nothing. Modules of
    timm that re-parameterise themselves (RepVGG, MobileOne, FastViT, RepViT, ...) do so in float64, and their outputs
    are compared with the original's.

    Args:
        model: Any module. It is not changed. The layers to fuse must be in eval mode.
        example_input: Input for networks that torch.fx cannot trace (control flow that depends on data): a tensor, a
            tuple of positional arguments or a dict of keyword arguments, on the model's device. Without it some batch
            norms of such networks may stay, with a warning.

    Raises:
        TypeError: ``model`` is no network.
        FusionError: A layer cannot be fused (it is in train mode, keeps no running statistics, holds NaN, ...). The
            message begins with the layer's name.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fuse_model(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    return _fuse(model, example_input)[0]


@torch.no_grad()
def fuse_with_report(model: nn.Module, example_input: Any = None) -> tuple[nn.Module, FuseReport]:
    """Fuse a network as `fuse_model` does, and report on it as `fuse_report` does."""
    return _fuse(model, example_input)


@torch.no_grad()
def fuse_report(model: nn.Module, example_input: Any = None) -> FuseReport:
    """Report what `fuse_model` does to each batch norm of a network, and why some of them stay.

    Args:
        model: Any module, as for `fuse_model`. It is not changed.
        example_input: Input for networks that torch.fx cannot trace, as for `fuse_model`.

    Raises:
        FusionError: As `fuse_model` does.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()).eval()
        >>> print(fuse_report(model))
        batch norm  kind            fused into  why it stays
        ----------  --------------  ----------  ------------
        1           BatchNorm2d(8)  0
        1 of 1 batch norms fused
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says the same
        return _fuse(model, example_input)[1]


def _fuse(model: nn.Module, example_input: Any) -> tuple[nn.Module, FuseReport]:
    model = uncompiled(model)
    refuse_lazy(model)
    refuse_equal(model)
    refuse_global_hooks()
    fused = fuse_units(deep_copy(model))
    _warn_of_traced_blocks(fused)
    convs: dict[nn.Module, nn.Module] = {}
    for name, module in layers(fused):
        if isinstance(module, FusibleConv):
            try:
                convs[module] = module.fuse()
            except FusionError as error:
                raise FusionError(f"`{name}`: {error}" if name else str(error)) from error
            inherit_hooks(convs[module], module)
    before = light_copy(fused) if convs else fused
    fused = replace_modules(fused, convs)

    found = dict(layers(fused))
    norms = {name: layer for name, layer in found.items() if isinstance(layer, _BatchNorm)}
    if all(why_norm_stays(norm) for norm in norms.values()):
        if convs:
            _refuse_changed_path(before, fused, (), example_input)
        return fused, report_on(model, fused, {}, {name: why_norm_stays(norm) for name, norm in norms.items()})
    flow = follow(fused, example_input)
    _warn_of_doubts(flow, found)
    plan = plan_fusing(found, flow)
    if plan.ranks and not convs:
        before = light_copy(fused)
    for norm_name, names in {**plan.after, **plan.before}.items():
        norm = norms[norm_name]
        neighbours = [layer for name in names if isinstance(layer := found[name], (_ConvNd, nn.Linear))]
        if norm.training:
            raise FusionError(
                f"`{norm_name}`: it is in train mode, where batch norm uses each batch's own statistics and no fixed "
                "convolution gives the same output; call model.eval() first"
            )
        try:
            (fuse_after if norm_name in plan.after else fuse_before)(neighbours, norm)
        except FusionError as error:
            raise FusionError(f"{listed(names)}: its weights fused with batch norm `{norm_name}` {error}") from error
    stand_ins: dict[nn.Module, nn.Module] = {
        norms[n]: activation_of(norms[n], rank, n) for n, rank in plan.ranks.items()
    }
    into = {**plan.after, **plan.before}
    fused = replace_modules(fused, stand_ins)
    if convs or into:
        _refuse_changed_path(before, fused, plan.ranks, example_input)
    return fused, report_on(model, fused, into, plan.left)


def _refuse_changed_path(before: nn.Module, fused: nn.Module, replaced: Collection[str], example_input: Any) -> None:
    if difference := changed_path(before, fused, replaced, example_input):
        raise FusionError(
            f"once fused the code of the network behaves differently ({difference}): it checks the class, an attribute "
            "or the number of its layers; check something that fusing does not change"
        )


def _warn_of_doubts(flow: Dataflow, found: Mapping[str, nn.Module]) -> None:
    """Warn of layers whose batch norm could not be traced, or may be a different one at another call."""
    unknown = [name for name in flow.unknown if not why_layer_stays(found[name])]
    if unknown:
        warnings.warn(
            f"cannot determine whether batch norms follow {listed(unknown)}, so they are not fused: torch.fx does not "
            f"trace the model ({flow.obstacle}); give an `example_input`, such as torch.zeros(1, 3, 224, 224)",
            stacklevel=5,
        )
    for name in sorted(flow.undecided):
        layer = found[name]
        if isinstance(layer, _BatchNorm):
            if name in flow.not_before and not why_norm_stays(layer):
                warnings.warn(f"`{name}` is not fused: {flow.not_before[name]}", stacklevel=5)
        elif not why_layer_stays(layer):
            warnings.warn(f"`{name}` and its batch norm are not fused: {flow.norm_missing[name]}", stacklevel=5)
