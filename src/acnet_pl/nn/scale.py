"""ChannelScale: a learned factor per channel that branches can have instead of a batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChannelScale"]


class ChannelScale(nn.Module):
    """A learned factor per channel: the linear scaling layer of OREPA (Hu et al., CVPR 2022).

    The layer is linear, so it can be fused into the kernel before it even during training, unlike a batch norm. Every
    branch has its own factors, so the branches learn differently.

    Shapes: ``(N, C, H, W)`` to the same.

    Args:
        num_features: Number of channels C.
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
        """Scale a kernel ``(C, I/groups, kH, kW)``, whose convolution then gives the scaled output."""
        return kernel * self.weight.to(kernel).reshape(-1, 1, 1, 1)

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return str(self.num_features)
