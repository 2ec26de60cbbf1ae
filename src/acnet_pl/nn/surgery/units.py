"""Units: modules of timm that re-parameterise themselves (RepVGG, MobileOne, FastViT, RepViT, ...).

timm's ``reparameterize_model`` calls a method of each unit, ``fuse``, ``reparameterize`` or ``switch_to_deploy``, which
reads the convolutions and batch norms inside. `fuse_units` calls the same methods for `fuse_model`. `keep_units` keeps
them working after a conversion has put blocks into a unit: it restores the unit's own layers first.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from acnet_pl.nn.fusible import FusibleConv
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.copying import deep_copy, inherit_hooks
from acnet_pl.nn.surgery.functions import is_users, names_in
from acnet_pl.nn.surgery.hooks import is_hooked
from acnet_pl.nn.surgery.report import LayerReport
from acnet_pl.nn.surgery.trace import listed

__all__ = ["fuse_units", "keep_units"]

_VERBS = ("fuse", "reparameterize", "switch_to_deploy")  # in timm's order
_CHANNELS = ("in_channels", "in_features", "num_features")  # names of the number of input channels


def verb_of(module: nn.Module) -> str | None:
    """Return the name of the method with which timm fuses one of its modules, or None for other modules."""
    if not type(module).__module__.startswith("timm.") or hasattr(module, "forward_features"):  # a whole network
        return None
    return next((verb for verb in _VERBS if callable(getattr(module, verb, None))), None)


def fuse_units(model: nn.Module, name: str = "") -> nn.Module:
    """Fuse the units of a network in place, the outer ones first, and return the network or its replacement.

    A copy of each unit is fused in float64 and compared with the original on random numbers. If a unit's own method
    does not fuse it exactly, it stays as it is, with a warning, and `fuse_model` fuses its layers.

    Args:
        model: The network.
        name: Its name in messages.

    Raises:
        FusionError: A unit is in train mode.
    """
    dropping: list[str] = []
    fused = _fuse_inside(model, name, {}, dropping, _names_outside(model))
    if dropping:
        warnings.warn(
            f"{listed(dropping)}: dropout or stochastic depth between layers that are now one, so the fused network "
            "cannot switch it on; in eval mode it does nothing",
            stacklevel=4,
        )
    return fused


def _names_outside(model: nn.Module) -> set[str]:
    """Return the names in the code of modules that are in no unit, other than of what such a module has itself."""
    inside = {inner for unit in model.modules() if verb_of(unit) for inner in unit.modules()}
    kinds = {type(module): module for module in model.modules() if module not in inside and is_users(type(module))}
    return {name for module in kinds.values() for name in names_in(module) - {*dir(module)}}


def _fuse_inside(
    module: nn.Module, name: str, done: dict[nn.Module, nn.Module], dropping: list[str], outside: set[str]
) -> nn.Module:
    if module in done:
        return done[module]
    made, verb = module, verb_of(module)
    if verb is not None:
        norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
        if any(norm.training for norm in norms):
            raise FusionError(
                f"`{name}`: it is in train mode, where batch norm uses each batch's own statistics and no fixed "
                "convolution gives the same output; call model.eval() first"
            )
        try:
            if hooked := [part for part, inner in module.named_modules() if part and is_hooked(inner)]:
                raise FusionError(f"a hook of `{hooked[0]}` in it would be lost")
            unit = _fuse_unit(module, verb)
            kept = dict(unit.named_modules())
            if used := {part.split(".")[0] for part, _ in module.named_modules() if part not in kept} & outside:
                raise FusionError(f"code outside of it names its `{min(used)}`, which it would not have any more")
            made = unit
            dropping += [f"{name}.{part}".lstrip(".") for part in _dropping(module) if part not in kept]
        except Exception as error:
            if norms:  # without any, timm has fused it already
                warnings.warn(
                    f"`{name}` is not fused as a whole by {verb}() of timm's {type(module).__name__}: {error}",
                    stacklevel=4,
                )
    done[module] = made
    for child_name, child in made.named_children():
        made._modules[child_name] = _fuse_inside(child, f"{name}.{child_name}".lstrip("."), done, dropping, outside)
    return made


def _dropping(unit: nn.Module) -> Iterator[str]:
    """Iterate over the names of the modules in a unit that drop something in train mode."""
    for name, module in unit.named_modules():
        share = module.p if isinstance(module, _DropoutNd) else getattr(module, "drop_prob", 0)
        if isinstance(share, float) and share > 0:
            yield name


def keep_units(model: nn.Module, entries: Mapping[str, LayerReport], norms: Mapping[str, nn.Module]) -> None:
    """Keep the fusing methods of units working that now contain blocks.

    Args:
        model: A converted network, changed in place.
        entries: The conversion report's entries by name of the block.
        norms: The batch norms that blocks replaced, by name.
    """
    for name, unit in model.named_modules():
        verb = verb_of(unit)
        start = f"{name}." if name else ""
        inside = [entry for entry in entries.values() if entry.name.startswith(start)]
        if verb is None or not inside or any(e.norm and not e.norm.startswith(start) for e in inside):
            continue
        pairs = []
        for entry in inside:
            norm = norms[entry.norm] if entry.norm else None
            shell = None if norm is None else copy.deepcopy(norm).to("meta")
            norm_name = entry.norm and entry.norm.removeprefix(start)
            pairs.append((entry.name.removeprefix(start), entry.bias, norm_name, shell))
        setattr(unit, verb, partial(_fuse_restored, unit, verb, tuple(pairs)))


def _fuse_restored(unit: nn.Module, verb: str, pairs: Iterable[tuple[str, bool, str | None, Any]]) -> Any:
    """Replace a unit's blocks by its own kinds of layers, which compute the same, and call its fusing method."""
    for block_name, biased, norm_name, shell in pairs:
        block = unit.get_submodule(block_name)
        if not isinstance(block, FusibleConv):
            continue  # another unit inside this one has been restored
        conv = block.fuse()
        assert conv.bias is not None
        if norm_name is not None and shell is not None:
            unit.set_submodule(norm_name, _restored(shell, conv, unit.get_submodule(norm_name)))
            conv.bias = nn.Parameter(torch.zeros_like(conv.bias)) if biased else None
        elif not biased and conv.bias.any():
            raise FusionError(
                f"`{block_name}` has gained a bias, for which the unit has no place; exclude it from the conversion"
            )
        unit.set_submodule(block_name, conv)
    del vars(unit)[verb]
    return getattr(unit, verb)()


@torch.no_grad()
def _restored(shell: _BatchNorm, conv: nn.Conv2d, rest: nn.Module) -> _BatchNorm:
    """Return a batch norm that only adds a convolution's bias, and keeps its activation if it had one."""
    assert conv.bias is not None
    norm = copy.deepcopy(shell).to_empty(device=conv.weight.device).to(conv.weight).train(conv.training)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.zero_()
    if norm.affine:
        norm.weight.fill_(1)
        norm.bias.copy_(conv.bias)
    else:
        norm.running_mean.copy_(-conv.bias)
    for name, child in rest.named_children():
        norm._modules[name] = child
    return norm


@torch.no_grad()
def _fuse_unit(unit: nn.Module, verb: str) -> nn.Module:
    """Fuse a copy of a unit in float64; raise an error if the result does not compute the same."""
    weight = next((parameter for parameter in unit.parameters()), None)
    exact, trained = deep_copy(unit).cpu().double(), deep_copy(unit).cpu().double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for the layers that the unit's method creates
    try:
        result = getattr(exact, verb)()
    finally:
        torch.set_default_dtype(default)
    made: nn.Module = result if isinstance(result, nn.Module) else exact
    _compare(trained, made)
    if made is not exact:
        inherit_hooks(made, unit)
    if again := verb_of(made):
        setattr(made, again, partial(_itself, made))
    if weight is not None:
        made.to(weight)
        if any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in _maps(unit)):
            made.to(memory_format=torch.channels_last)
    made.requires_grad_(any(parameter.requires_grad for parameter in unit.parameters()))
    return made.train(unit.training)


def _itself(unit: nn.Module) -> nn.Module:
    """Return an already fused unit unchanged; this replaces its fusing method."""
    return unit


def _maps(unit: nn.Module) -> Iterator[Tensor]:
    return (parameter for parameter in unit.parameters() if parameter.dim() == 4)


def _compare(trained: nn.Module, fused: nn.Module) -> None:
    """Raise an error if two units differ on random numbers, or accept none of the usual shapes."""
    found = (getattr(module, name, None) for module in trained.modules() for name in _CHANNELS)
    widths = dict.fromkeys(size for size in found if isinstance(size, int))
    generator = torch.Generator().manual_seed(0)
    for width, shape in product(widths, ((14, 14), (), (5,))):
        size = (2, *shape, width) if len(shape) < 2 else (2, width, *shape)
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        try:
            expected = trained(x)
        except (RuntimeError, ValueError, IndexError):
            continue
        largest = float(expected.abs().max()) or 1.0  # all outputs are zero if γ is
        difference = float((fused(x) - expected).abs().max()) / largest
        if not difference <= 1e-6:
            raise FusionError(f"it does not compute the same (relative difference {difference:.1e} on random numbers)")
        return
    raise FusionError("it could not be evaluated on random numbers to compare")
