"""Compose two linear layers of a branch into one equivalent kernel. Pure, differentiable tensor functions.

Roman numerals name the transforms of "Diverse Branch Block" (Ding et al., CVPR 2021, Sect. 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compose_depthwise_first", "compose_pointwise_first", "filter_pointwise", "identity_kernel"]


def identity_kernel(channels: int, in_channels: int, groups: int, like: Tensor | None = None) -> Tensor:
    """Return the 1×1 kernel ``(channels, in_channels/groups, 1, 1)`` that copies the channels of each group in order.

    Args:
        channels: Output channels; if they exceed ``in_channels``, the channels of each group are repeated.
        in_channels: Input channels.
        groups: Groups of the convolution.
        like: A tensor whose dtype and device the kernel takes; None is PyTorch's defaults.

    Examples:
        >>> identity_kernel(4, 4, 2)[:, :, 0, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    width = in_channels // groups
    eye = torch.eye(width) if like is None else torch.eye(width, dtype=like.dtype, device=like.device)
    return (eye if channels == width else eye.repeat(-(-channels // width), 1)[:channels])[:, :, None, None]


def compose_pointwise_first(
    pointwise: Tensor, bias: Tensor | None, kernel: Tensor, groups: int
) -> tuple[Tensor, Tensor | None]:
    """Compose a 1×1 convolution with the k×k convolution of its output (transforms III and IV).

    The k×k convolution must pad the output of the 1×1 convolution with its bias: the output for an input of 0.

    Args:
        pointwise: The 1×1 kernel, ``(M, I/groups, 1, 1)``.
        bias: Its bias, ``(M,)``, or None.
        kernel: The k×k kernel, ``(O, M/groups, k, k)``.
        groups: Groups of both.

    Returns:
        Kernel ``(O, I/groups, k, k)`` and bias ``(O,)``; the bias is None if ``bias`` is.
    """
    first = pointwise.reshape(groups, pointwise.shape[0] // groups, -1)
    second = kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])
    composed = torch.einsum("gmi,gomhw->goihw", first, second).flatten(0, 1)
    if bias is None:
        return composed, None
    return composed, torch.einsum("gm,gomhw->go", bias.reshape(groups, -1), second).flatten()


def filter_pointwise(pointwise: Tensor, filters: Tensor) -> Tensor:
    """Compose a 1×1 convolution with a k×k filter on each channel of its output, such as an average (transform V).

    Args:
        pointwise: ``(O, I/groups, 1, 1)``.
        filters: ``(O, k, k)``.

    Returns:
        Kernel ``(O, I/groups, k, k)``.
    """
    return pointwise * filters[:, None]


def compose_depthwise_first(depthwise: Tensor, pointwise: Tensor, in_channels: int, groups: int) -> Tensor:
    """Compose a depthwise k×k convolution with a 1×1 convolution of its output.

    Args:
        depthwise: ``(I·m, 1, k, k)``, m filters on each input channel.
        pointwise: ``(O, I·m/groups, 1, 1)``.
        in_channels: I.
        groups: Groups of the 1×1 convolution, and of the result.

    Returns:
        Kernel ``(O, I/groups, k, k)``.
    """
    width, multiple = in_channels // groups, depthwise.shape[0] // in_channels
    first = depthwise.reshape(groups, width, multiple, *depthwise.shape[2:])
    second = pointwise.reshape(groups, pointwise.shape[0] // groups, width, multiple)
    return torch.einsum("gimhw,goim->goihw", first, second).flatten(0, 1)
