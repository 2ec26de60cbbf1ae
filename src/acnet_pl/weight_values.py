"""Check the values of weights that a file brings, before they are loaded into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

__all__ = ["check_values"]


def check_values(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError for integers in the place of floating-point numbers, NaN or infinity; the precision may differ.

    Args:
        network: Network that the weights are for.
        tensors: Weights by name; those that the network does not have are passed over.
    """
    for name, tensor in network.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{name} is {tensors[name].dtype}, expected {tensor.dtype}")
    for name, _ in network.named_parameters():
        if name in tensors and not tensors[name].isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values; the training diverged, or the file is damaged")
