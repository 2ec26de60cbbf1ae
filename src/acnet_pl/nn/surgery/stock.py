"""stock_state_dict: a trained ACNet as weights of its stock architecture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.carried_biases import carry_biases
from acnet_pl.nn.surgery.copying import light_copy, uncompiled
from acnet_pl.nn.surgery.report import ConversionReport, LayerReport, reports_in

__all__ = ["stock_state_dict"]


@torch.no_grad()
def stock_state_dict(acnet: nn.Module, *, calibrate: Iterable[Any] | None = None) -> dict[str, Tensor]:
    """Return weights for the architecture that an ACNet was converted from; they load strictly into it.

    In eval mode the stock model then computes what the trained ACNet computes. The fused kernel goes into the
    convolution. The fused bias goes into the convolution's bias or, if the block replaced a batch norm, into that batch
    norm, which becomes the identity plus the bias (γ = 1, β = b, mean 0, variance 1 - eps). If the stock model has
    neither, the bias moves into the running means of later batch norms, if the data flow proves that this is exact.

    In *train* mode such a batch norm would normalise values that it should pass unchanged. Give ``calibrate`` if you
    want to train the stock model further: batch norms then get the true statistics of their inputs, and γ and β that
    undo them. The function is the same in eval mode and nearly the same in train mode. (Batch norms without γ and β are
    not calibrated.)

    Args:
        acnet: The trained result of `convert_to_acnet`, or a module that contains it, such as a LightningModule. It may
            be in train or eval mode; the weights reproduce the function in eval mode.
        calibrate: Batches: the network's images ``(N, C, H, W)``, or tuples that begin with them.

    Returns:
        A state for ``load_state_dict``. Tensors of layers that were not converted are the network's own, not copies.

    Raises:
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
    state: dict[str, Tensor] = acnet.state_dict()
    converted = list(reports_in(acnet))
    if not converted:
        raise ValueError(
            f"{type(acnet).__name__} holds no converted network; give the whole network that convert_to_acnet returned"
        )
    batches = None if calibrate is None else list(calibrate) if len(converted) > 1 else calibrate
    for prefix, network, report in converted:
        start = f"{prefix}." if prefix else ""
        for key in network.state_dict():
            del state[start + key]
        state.update({start + key: value for key, value in _network_state(network, report, batches).items()})
    return state


def _network_state(network: nn.Module, report: ConversionReport, batches: Iterable[Any] | None) -> dict[str, Tensor]:
    """Return the stock state of a network that `convert_to_acnet` returned."""
    layers = [_Layer(entry, *found) for entry in report.converted if (found := _fused(network, entry.name))]
    loose = {layer.entry.name: layer.bias for layer in layers if layer.entry.norm is None and not layer.entry.bias}
    if loose:
        carried = carry_biases(network, loose, {layer.entry.name for layer in layers} - loose.keys())
        for layer in layers:
            layer.bias = layer.bias + carried.pop(layer.entry.name, 0)
    else:
        carried = {}
    if batches is not None:
        _calibrate(network, [layer for layer in layers if layer.entry.affine], batches)

    aliases = _aliases(network)
    state: dict[str, Tensor] = network.state_dict()
    for layer in layers:
        for name in aliases[layer.entry.name]:
            start = f"{name}." if name else ""
            for key in [key for key in state if key.startswith(start)]:
                del state[key]
            state.update({start + key: value for key, value in layer.conv_state().items()})
        for name in () if layer.entry.norm is None else aliases[layer.entry.norm]:
            state.update({f"{name}.{key}": value for key, value in layer.norm_state().items()})
    for first, shift in carried.items():
        for name in aliases[first]:
            mean = f"{name}.running_mean"
            key, change = (mean, -shift) if mean in state else (f"{name}.bias", shift)
            state[key] = (exact(state[key]) + change).to(state[key])
    return state


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
    if not (kernel.isfinite().all() and bias.isfinite().all()):
        raise FusionError(
            f"`{name}`: its fused weights hold NaN or infinite values: the training diverged; give a checkpoint from "
            "before that"
        )
    return block, kernel, bias


def _aliases(network: nn.Module) -> dict[str, list[str]]:
    """Map each module's first name to all its names."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return {first: [first, *others] for first, *others in names.values()}


def _calibrate(network: nn.Module, layers: list[_Layer], batches: Iterable[Any]) -> None:
    """Compute mean and variance over all batches of the stock convolutions' outputs: the blocks' minus the bias."""
    probe = light_copy(network).eval()
    device = next(network.parameters()).device
    counts = dict.fromkeys(range(len(layers)), 0)
    squares: dict[int, Tensor] = {}

    def observe(index: int, output: Tensor) -> None:
        values = exact(output).transpose(0, 1).flatten(1)
        layer, count, new = layers[index], counts[index], values.shape[1]
        mean = values.mean(1)
        square = (values - mean[:, None]).square().sum(1)
        if layer.mean is not None:  # combined with the earlier batches' (Chan et al.)
            apart = mean - layer.mean
            square = squares[index] + square + apart.square() * (count * new / (count + new))
            mean = layer.mean + apart * (new / (count + new))
        layer.mean, squares[index], counts[index] = mean, square, count + new

    for index, layer in enumerate(layers):
        probe.get_submodule(layer.entry.name).register_forward_hook(
            lambda _, args, output, index=index: observe(index, output)
        )
    for batch in batches:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        probe(images.to(device))
    if not any(counts.values()):
        raise ValueError("`calibrate` gives no batches that reach a converted layer; give a loader of images")
    for index, square in squares.items():
        layer = layers[index]
        assert layer.mean is not None
        layer.mean, layer.var = layer.mean - layer.bias, square / max(counts[index] - 1, 1)
