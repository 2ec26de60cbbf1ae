"""stock_state_dict: a trained ACNet as weights of its stock architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.fusion import FusionError, all_finite
from acnet_pl.nn.surgery.calibration import moments_over_batches
from acnet_pl.nn.surgery.carried_biases import carry_biases
from acnet_pl.nn.surgery.copying import uncompiled
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, reports_in

__all__ = ["stock_state_dict"]


@torch.no_grad()
def stock_state_dict(acnet: nn.Module, *, calibrate: Iterable[Any] | None = None) -> dict[str, Tensor]:
    """Return weights for the architecture that an ACNet was converted from; they load strictly into it.

    In eval mode the stock model then computes what the trained ACNet computes. The fused kernel goes into the
    convolution. The fused bias goes into the convolution's bias or, if the block replaced a batch norm, into that batch
    norm, which becomes the identity plus the bias (γ = 1, β = b, mean 0, variance 1 - eps). If the stock model has
    neither, the bias moves into the running means of later batch norms, if the data flow proves that this is exact. A
    warning names each dropout that such a bias passes: with that dropout switched on in eval mode (Monte Carlo dropout)
    the stock model computes something else.

    In *train* mode such a batch norm would normalise values that it should pass unchanged. Give ``calibrate`` if you
    want to train the stock model further: batch norms then get the true statistics of their inputs, and γ and β that
    undo them. The function is the same in eval mode. In train mode it is nearly the same if the running statistics of
    the other batch norms (of layers that stayed, such as 1×1 convolutions) have converged: in train mode these use each
    batch's statistics instead. (Batch norms without γ and β are not calibrated.)

    Args:
        acnet: The trained result of `convert_to_acnet`, or a module that contains it, such as a LightningModule. It may
            be in train or eval mode; the weights reproduce the function in eval mode.
        calibrate: Batches: the network's images ``(N, C, H, W)``, or tuples that begin with them.

    Returns:
        A state for ``load_state_dict``. Tensors of layers that were not converted are the network's own, not copies.
        The keys are those of ``acnet``: for a LightningModule that holds the network as ``self.net`` they begin with
        ``net.``. So give ``module.net`` for the stock model, or load them into a module that holds the stock model.

    Raises:
        TypeError: It is no network.
        ValueError: The module contains no converted network, or ``calibrate`` gives no batches.
        FusionError: A block cannot be fused, or the stock model has no place for its bias; the message names it.

    Examples:
        >>> from acnet_pl.nn import convert_to_acnet
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        >>> acnet = convert_to_acnet(model)
        >>> model.load_state_dict(stock_state_dict(acnet))
        <All keys matched successfully>
    """
    acnet = uncompiled(acnet)
    converted = list(reports_in(acnet))
    if not converted:
        raise ValueError(
            f"{type(acnet).__name__} holds no converted network; give the whole network that convert_to_acnet returned"
        )
    batches = None if calibrate is None else list(calibrate) if len(converted) > 1 else calibrate
    replaced: dict[nn.Module, nn.Module] = {}
    for _, network, report in converted:
        replaced |= _stock_layers(network, report, batches)
    with _replaced_inside(acnet, replaced):
        state: dict[str, Tensor] = replaced.get(acnet, acnet).state_dict()
    return state


def _stock_layers(
    network: nn.Module, report: ConversionReport, batches: Iterable[Any] | None
) -> dict[nn.Module, nn.Module]:
    """Map modules of a network that `convert_to_acnet` returned to modules with the tensors of the stock layers."""
    layers = [_Layer(entry, *found) for entry in report.converted if (found := _fused(network, entry.name))]
    loose = {layer.entry.name: layer.bias for layer in layers if layer.entry.norm is None and not layer.entry.bias}
    carried: dict[str, Tensor] = {}
    if loose:
        carried = carry_biases(network, loose, {layer.entry.name for layer in layers} - loose.keys())
        for layer in layers:
            layer.bias = layer.bias + carried.pop(layer.entry.name, 0)
    if batches is not None:
        calibrated = [layer.entry.name for layer in layers if layer.entry.affine]
        moments = moments_over_batches(network, calibrated, batches) if calibrated else {}
        for layer in layers:
            if (seen := moments.get(layer.entry.name)) is not None:  # of a block, whose bias goes into the batch norm
                layer.mean, layer.var = seen.mean - layer.bias, seen.var

    stock: dict[nn.Module, nn.Module] = {}
    for layer in layers:
        stock[layer.block] = _holder(layer.conv_state())
        if layer.entry.norm is not None:
            after = network.get_submodule(layer.entry.norm)  # the batch norm's activation, if it has one
            stock[after] = _holder(layer.norm_state(), after)
    for name, shift in carried.items():
        module = network.get_submodule(name)
        mean = module._buffers.get("running_mean")
        changed, change = ("bias", shift) if mean is None else ("running_mean", -shift)
        before: Tensor = getattr(module, changed)
        stock[module] = _with_tensor(module, changed, (exact(before) + change).to(before))
    return stock


def _holder(tensors: Mapping[str, Tensor], inside: nn.Module | None = None) -> nn.Module:
    """Return a module that holds tensors, and the modules inside another."""
    holder = nn.Module()
    for name, tensor in tensors.items():
        holder.register_buffer(name, tensor)
    for name, module in () if inside is None else inside.named_children():
        holder.add_module(name, module)
    return holder


def _with_tensor(module: nn.Module, name: str, tensor: Tensor) -> nn.Module:
    """Return a shallow copy of a module with another parameter or buffer."""
    changed = type(module).__new__(type(module))
    vars(changed).update(vars(module))
    changed._parameters, changed._buffers = dict(module._parameters), dict(module._buffers)
    if name in changed._parameters:
        changed._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        changed._buffers[name] = tensor
    return changed


@contextmanager
def _replaced_inside(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> Iterator[None]:
    """Replace modules under all their names within the context, so that ``state_dict`` and its hooks find them."""
    places = [
        (holder._modules, name, child)
        for holder in model.modules()
        for name, child in holder._modules.items()
        if child is not None and child in replacements
    ]
    try:
        for modules, name, child in places:
            modules[name] = replacements[child]
        yield
    finally:
        for modules, name, child in places:
            modules[name] = child


@dataclass
class _Layer:
    """A block and the values of the stock layers that it stands for.

    ``mean`` and ``var`` describe the convolution's output if calibrated, otherwise they are None.
    """

    entry: LayerReport
    block: FusibleConv
    kernel: Tensor
    bias: Tensor
    mean: Tensor | None = None
    var: Tensor | None = None

    def conv_state(self) -> dict[str, Tensor]:
        like = next(self.block.kernels())
        state = {"weight": self.kernel.to(like)}
        if self.entry.bias:
            state["bias"] = (self.bias if self.entry.norm is None else torch.zeros_like(self.bias)).to(like)
        return state

    def norm_state(self) -> dict[str, Tensor]:
        own = next(self.block.norms(), None)
        like = next(self.block.kernels()) if own is None or own.running_mean is None else own.running_mean
        batches = None if own is None else own.num_batches_tracked
        state: dict[str, Tensor] = {}
        if self.mean is not None and self.var is not None:
            var = self.var.to(like)
            mean, gamma, beta = self.mean, (exact(var) + self.entry.eps).sqrt(), self.bias + self.mean
        else:
            var = torch.full_like(self.bias, 1 - self.entry.eps)
            mean, gamma, beta = torch.zeros_like(self.bias), torch.ones_like(self.bias), self.bias
        if self.entry.affine:
            state.update(weight=gamma.to(like), bias=beta.to(like))
        else:
            mean = -self.bias
        state.update(running_mean=mean.to(like), running_var=var.to(like))
        state["num_batches_tracked"] = torch.tensor(0, device=like.device) if batches is None else batches.clone()
        return state


def _fused(network: nn.Module, name: str) -> tuple[FusibleConv, Tensor, Tensor] | None:
    """Return a block with its fused kernel and bias in float64, or None if the network no longer has this layer."""
    try:
        block = network.get_submodule(name)
    except AttributeError:
        return None
    if isinstance(block, nn.Conv2d):
        raise FusionError(f"`{name}`: it has been fused already; give the ACNet as it was trained")
    if not isinstance(block, FusibleConv):
        return None
    try:
        kernel, bias = block.fuse_kernel()
    except FusionError as error:
        raise FusionError(f"`{name}`: {error}") from error
    if not all_finite(kernel, bias):
        raise FusionError(
            f"`{name}`: its fused weights hold NaN or infinite values: the training diverged; give a checkpoint from "
            "before that"
        )
    return block, kernel, bias
