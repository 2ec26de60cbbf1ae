"""Count the cost of a training step on the meta device: the same on every machine, without data."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acnet_pl.analysis.meta_norms import QuickMetaNorms

__all__ = ["TrainingCost", "training_cost"]

_BATCHES = 32, 64  # the difference leaves out what does not grow with the batch, such as a kernel made once a step


@dataclass(frozen=True)
class TrainingCost:
    """Cost of training a network.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates of one image's forward pass, in convolutions and matrix products.
        kept_bytes: Bytes that the forward pass keeps of one image for the backward pass.
    """

    parameters: int
    macs: int
    kept_bytes: int


def training_cost(model: nn.Module, input_shape: tuple[int, int, int]) -> TrainingCost:
    """Count the cost of a training step per image.

    Kept is the storage of every tensor that autograd saves, once. It is the part of a training's memory that the
    network decides, whatever the device; workspaces and the allocator's own are not in it.

    Args:
        model: Takes images ``(N, C, H, W)``; it stays as it is.
        input_shape: ``(C, H, W)`` of one image.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
        >>> cost = training_cost(net, (3, 8, 8))
        >>> cost.macs == 8 * 3 * 9 * 6 * 6, cost.kept_bytes == 4 * (3 * 8 * 8 + 8 * 6 * 6)  # input, output of ReLU
        (True, True)
    """
    probe = copy.deepcopy(model).to("meta").train()
    (macs, kept), (more_macs, more_kept) = (_step(probe, count, input_shape) for count in _BATCHES)
    images = _BATCHES[1] - _BATCHES[0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return TrainingCost(parameters, (more_macs - macs) // images, (more_kept - kept) // images)


def _step(model: nn.Module, count: int, input_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return multiply-accumulates and kept bytes of a batch."""
    saved: dict[int, Tensor] = {}  # holds the tensors, lest an address be used again

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    like, counter = next(model.parameters()), FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), hooks, QuickMetaNorms(), counter:
        model(torch.zeros(count, *input_shape, dtype=like.dtype, device="meta"))
    return counter.get_total_flops() // 2, sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
