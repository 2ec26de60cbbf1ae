"""Late folding: blocks become convolutions with one batch norm while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.acb import ACBlock
from acnet_pl.nn.conv import ConvNorm
from acnet_pl.nn.fusible import exact, fold_norm
from acnet_pl.nn.fusion import FusionError, fold_batch_norm
from acnet_pl.nn.scale import ChannelScale
from acnet_pl.nn.surgery.fuse import replace_modules

__all__ = ["Moments", "merge_as_saved", "merge_block", "merged_velocity", "output_moments"]

Moments = tuple[Tensor, Tensor]
"""Mean and variance ``(O,)`` in float64."""


@torch.no_grad()
def merge_block(block: ACBlock, moments: Moments | None = None) -> ConvNorm:
    """Make a plain convolution and batch norm of a block, which computes the same in eval mode.

    With batch norms in the branches the kernel is the folded one, and the batch norm has the statistics given, γ that
    undoes the division by them and β that undoes the subtraction. With one batch norm after the sum, that is kept as it
    is behind the sum of the kernels.

    Args:
        block: It is used up: its square kernel and one of its batch norms live on in the layer, with new values.
        moments: Of the output of the block's folded convolution without its bias, see `output_moments`; for a block
            with batch norms in the branches.

    Raises:
        FusionError: The block cannot be folded, or its batch norm has no γ and β to undo statistics with.
    """
    square, norm = block.square, block.norm or block.square_norm
    if square is None or not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise FusionError("it has no square kernel followed by a batch norm with running statistics")
    if block.norm is None:
        if norm.weight is None:
            raise FusionError("its batch norms have no γ and β (affine=False), which would have to undo statistics")
        if moments is None:
            raise ValueError("a block with batch norms in its branches needs the `moments` of its output")
        kernel, bias = block.fold()
        mean, var = moments
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(1)
        norm.weight.copy_((exact(norm.running_var) + norm.eps).sqrt())
        norm.bias.copy_(bias + exact(norm.running_mean))
    else:
        kernel = _summed(block, exact, {})
    square.weight.copy_(kernel)

    with torch.device("meta"):
        layer = ConvNorm(
            block.in_channels,
            block.out_channels,
            block.kernel_size,
            block.stride,
            block.padding,
            block.dilation,
            block.groups,
            block.padding_mode,
        )
    layer.conv.weight = square.weight
    layer.norm = norm
    layer.training = layer.conv.training = block.training
    return layer


@torch.no_grad()
def merged_velocity(block: ACBlock, velocity: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """How fast the parameters of `merge_block`'s layer move, when those of the block move so.

    The map from the branches to kernel and β is differentiated at the present parameters and statistics: the kernel
    moves as the folded kernel does, be it by the branches' kernels or by their γ; β as the sum of theirs; γ, which does
    what the kernel's length does, begins at rest.

    Args:
        block: Before `merge_block`.
        velocity: Of its parameters, such as their momentum; those that are left out do not move.

    Returns:
        By the parameters that live on.
    """
    assert block.square is not None
    moved: dict[Tensor, Tensor] = {}
    if block.square.weight in velocity:
        moved[block.square.weight] = _summed(block, lambda kernel: exact(velocity[kernel]), velocity)
    if block.norm is not None:
        moved.update({parameter: velocity[parameter] for parameter in block.norm.parameters() if parameter in velocity})
    elif block.square_norm is not None and block.square_norm.bias in velocity:
        biases = [norm.bias for _, _, norm in block.branches() if isinstance(norm, _BatchNorm)]
        moved[block.square_norm.bias] = torch.stack([exact(velocity[bias]) for bias in biases]).sum(0)
        moved[block.square_norm.weight] = torch.zeros_like(block.square_norm.weight)
    return {parameter: value.to(parameter) for parameter, value in moved.items()}


@torch.no_grad()
def output_moments(
    network: nn.Module, images: Tensor, total: Callable[[Tensor], Tensor] = lambda x: x
) -> dict[ACBlock, Moments]:
    """Mean and variance of the outputs of the blocks' folded convolutions without their biases, on some images.

    Args:
        network: Evaluated in eval mode; its modes are as before when this returns.
        images: ``(N, C, H, W)``.
        total: Sums a tensor over all processes.

    Raises:
        FusionError: A block is not reached by the images.
    """
    sums: dict[ACBlock, Tensor] = {}

    def observe(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, ACBlock)
        values = output.to("cpu", torch.float64) if output.device.type == "mps" else output.double()
        values = values.transpose(0, 1).flatten(1)
        count = values.new_full((len(values),), values.shape[1])
        seen = torch.stack([count, values.sum(1), values.square().sum(1)])
        sums[module] = sums[module] + seen if module in sums else seen

    blocks = [module for module in network.modules() if isinstance(module, ACBlock) and module.fused is None]
    handles = [block.register_forward_hook(observe) for block in blocks]
    try:
        with _evaluated(network):
            network.forward(images)  # not the compiled call: there is one evaluation, which is not worth compiling
    finally:
        for handle in handles:
            handle.remove()
    moments = {}
    for block in blocks:
        if block not in sums:
            raise FusionError("a block takes no part in the evaluation of the network, so there are no statistics")
        count, first, second = total(sums[block])
        mean = first / count
        var = (second / count - mean.square()).clamp_min(0) * (count / (count - 1).clamp_min(1))
        moments[block] = mean - block.fold()[1].to(mean), var
    return moments


def merge_as_saved(network: nn.Module, saved: Collection[str]) -> nn.Module:
    """Give a network the structure that a checkpoint has: blocks become plain layers where they were when it was saved.

    Args:
        network: As it was built; changed in place.
        saved: Names of the tensors that are to be loaded into it.

    Returns:
        The network.
    """
    layers: dict[nn.Module, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, ACBlock) and f"{name}.conv.weight".lstrip(".") in saved:
            unit = torch.ones(module.out_channels, dtype=torch.float64)
            layers[module] = merge_block(module, (0 * unit, unit))
    return replace_modules(network, layers)


def _summed(block: ACBlock, moved: Callable[[Tensor], Tensor], velocity: Mapping[Tensor, Tensor]) -> Tensor:
    """Σ of a tensor per branch, embedded and scaled as its kernel is, and of what γ or scale add when they move."""
    terms = []
    for name, conv, norm in block.branches():
        term = moved(conv.weight)
        if norm is not None:
            term = fold_norm(term, None, norm)[0]
        if isinstance(norm, ChannelScale) and norm.weight in velocity:
            term = term + exact(conv.weight) * exact(velocity[norm.weight]).reshape(-1, 1, 1, 1)
        elif isinstance(norm, _BatchNorm) and norm.weight in velocity:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            statistics = exact(norm.running_mean), exact(norm.running_var)
            term = (
                term
                + fold_batch_norm(exact(conv.weight), None, *statistics, exact(velocity[norm.weight]), eps=norm.eps)[0]
            )
        terms.append(block.geometry[name].embed(term))
    return torch.stack(terms).sum(0)


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
