"""Late fusing: turn blocks into convolutions with one batch norm during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acnet_pl.nn.conv import ConvNorm
from acnet_pl.nn.fusible import FusibleConv, exact
from acnet_pl.nn.fusion import FusionError
from acnet_pl.nn.surgery.copying import inherit_hooks
from acnet_pl.nn.surgery.running import call

__all__ = ["Moments", "blocks_of", "fuse_block", "fused_velocity", "output_moments", "survivors"]

Moments = tuple[Tensor, Tensor]
"""Mean and variance ``(O,)`` in float64."""


@torch.no_grad()
def fuse_block(block: FusibleConv, moments: Moments | None = None) -> ConvNorm:
    """Turn a block into a plain convolution and batch norm that compute the same in eval mode.

    If the branches have batch norms, the new kernel is the fused one. The new batch norm has the given statistics; its
    γ undoes the division and its β the subtraction. If the block has one batch norm after the sum, this is kept, and
    the kernel is the sum of the kernels.

    Args:
        block: The block, which must not be used afterwards: the new layer reuses its main kernel and one of its batch
            norms.
        moments: Mean and variance of the output of the block's fused convolution without bias, from `output_moments`.
            Required if the branches have batch norms.

    Raises:
        FusionError: The block cannot be fused, see `refuse_unfusable`.
        ValueError: ``moments`` are missing.
    """
    block.refuse_replaced()
    weight, norm = survivors(block)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kernel, bias = block.fuse_sum()
    if block.norm is None:
        if moments is None:
            raise ValueError("a block with batch norms in its branches needs the `moments` of its output")
        mean, var = moments
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(1)
        norm.weight.copy_((exact(norm.running_var) + norm.eps).sqrt())
        norm.bias.copy_(bias + exact(norm.running_mean))
    else:
        norm.running_mean.copy_(exact(norm.running_mean) - bias)
    weight.copy_(kernel)

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
    layer.conv.weight = weight
    layer.norm = norm
    layer.training = layer.conv.training = block.training
    inherit_hooks(layer, block)
    return layer


def fused_velocity(block: FusibleConv, velocity: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Compute the velocity of the parameters of `fuse_block`'s layer from the velocity of the block's parameters.

    The map from the branches to kernel and β is differentiated at the current parameters and statistics. The kernel
    gets the fused kernel's velocity, from the branches' kernels and γ. β gets the sum of the branches' velocities. γ,
    whose effect the kernel's length already has, gets zero.

    Args:
        block: The block before `fuse_block`.
        velocity: Velocity of its parameters, such as their momentum; missing parameters do not move.

    Returns:
        Velocity by parameter of the block that the new layer reuses.
    """
    weight, norm = survivors(block)
    moved: dict[Tensor, Tensor] = {}
    if weight in velocity:
        moved[weight] = _moved_kernel(block, velocity)
    if block.norm is not None:
        moved.update({parameter: velocity[parameter] for parameter in norm.parameters() if parameter in velocity})
    elif norm.bias in velocity:
        norms = [branch.norm for branch in block.branches() if isinstance(branch.norm, _BatchNorm)]
        moved[norm.bias] = torch.stack([exact(velocity[own.bias]) for own in norms if own.bias in velocity]).sum(0)
        moved[norm.weight] = torch.zeros_like(norm.weight)
    return {parameter: value.detach().to(parameter) for parameter, value in moved.items()}


def survivors(block: FusibleConv) -> tuple[nn.Parameter, _BatchNorm]:
    """Return the main kernel and the batch norm of a block, which the plain layer reuses."""
    main = block.branches()[0]
    weight, norm = main.kernels[0], main.norm if block.norm is None else block.norm
    if not (
        isinstance(weight, nn.Parameter)
        and isinstance(norm, _BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
    ):
        raise FusionError("it has no main kernel followed by a batch norm with running statistics")
    if block.norm is None and norm.weight is None:
        raise FusionError("its batch norms have no γ and β (affine=False), which are needed to undo statistics")
    return weight, norm


@torch.enable_grad()
def _moved_kernel(block: FusibleConv, velocity: Mapping[Tensor, Tensor]) -> Tensor:
    """Return the fused kernel's derivative along the velocity: the gradient of its gradient, linear in ``along``."""
    kernel = block.fuse_sum()[0]
    moving = [parameter for parameter in block.parameters() if parameter in velocity and parameter.requires_grad]
    along = torch.zeros_like(kernel, requires_grad=True)
    gradients = torch.autograd.grad(kernel, moving, along, create_graph=True, materialize_grads=True, allow_unused=True)
    total = torch.stack([(exact(g) * exact(velocity[p])).sum() for g, p in zip(gradients, moving, strict=True)]).sum()
    return torch.autograd.grad(total, along)[0]


@torch.no_grad()
def output_moments(
    network: nn.Module, inputs: Any, total: Callable[[Tensor], Tensor] = lambda x: x
) -> dict[FusibleConv, Moments]:
    """Return mean and variance of the outputs of the blocks' fused convolutions without biases, on one batch.

    Args:
        network: The network. It is evaluated in eval mode, and its training flags are restored.
        inputs: Images ``(N, C, H, W)``, a tuple of positional arguments or a dict of keyword arguments.
        total: Sums a tensor over all processes.

    Raises:
        FusionError: The network does not use a block for this batch.
    """
    sums: dict[FusibleConv, Tensor] = {}

    def observe(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, FusibleConv)
        values = output.to("cpu", torch.float64) if output.device.type == "mps" else output.double()
        values = values.transpose(0, 1).flatten(1)
        count = values.new_full((len(values),), values.shape[1])
        seen = torch.stack([count, values.sum(1), values.square().sum(1)])
        sums[module] = sums[module] + seen if module in sums else seen

    blocks = list(blocks_of(network))
    handles = [block.register_forward_hook(observe, prepend=True) for block in blocks]
    try:
        with _evaluated(network):
            call(network.forward, inputs)  # not the compiled call: a single evaluation is not worth compiling
    finally:
        for handle in handles:
            handle.remove()
    moments = {}
    names = {module: name for name, module in network.named_modules()}
    for block in blocks:
        if block not in sums:
            raise FusionError(
                f"`{names[block]}` takes no part in the evaluation of the network, so there are no statistics of it; "
                "name a submodule whose blocks all do, as in LateFuse(network='generator')"
            )
        count, first, second = total(sums[block])
        mean = first / count
        var = (second / count - mean.square()).clamp_min(0) * (count / (count - 1).clamp_min(1))
        moments[block] = mean - block.fuse_kernel()[1].to(mean), var
    return moments


def blocks_of(network: nn.Module) -> Iterator[FusibleConv]:
    """Iterate over the blocks of a network, except plain convolutions with their batch norms."""
    for module in network.modules():
        if isinstance(module, FusibleConv) and not module.is_plain:
            yield module


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
