"""ChannelScale: a learned scale that blocks can have in place of batch norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChannelScale"]


class ChannelScale(nn.Module):
    """Learned factor per channel: the linear scaling layer of OREPA (Hu et al., CVPR 2022).

    Being linear it merges into the kernel before it while training, too, where a batch norm does not. Unlike the batch
    norm after the sum it differs between the branches, and so makes them learn differently.

    Shapes: ``(N, C, H, W)`` to the same.

    Args:
        num_features: C.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.weight = nn.Parameter(torch.ones(num_features))

    def reset_parameters(self) -> None:
        """Set the factors to one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return x * self.weight.to(x.dtype).reshape(-1, 1, 1)

    def scale_kernel(self, kernel: Tensor) -> Tensor:
        """Return the kernel ``(C, I/groups, kH, kW)`` whose convolution gives the scaled output."""
        return kernel * self.weight.to(kernel).reshape(-1, 1, 1, 1)

    def extra_repr(self) -> str:
        """The number of channels."""
        return str(self.num_features)
