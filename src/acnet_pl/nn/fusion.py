"""The algebra of fusing: one pure tensor function for each equation of the article (Sect. 3.2-3.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FusionError", "all_finite", "embed_kernel", "fuse_batch_norm", "sum_branches"]

_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class FusionError(ValueError):
    """A layer cannot be fused exactly. The message names the layer, the reason and the way out."""


def all_finite(*tensors: Tensor) -> bool:
    """Return False if a tensor holds NaN or infinity; those on the meta device hold nothing.

    Smallest and largest value tell this, and take a tenth of the time of asking each value.
    """
    held = [tensor.detach() for tensor in tensors if tensor.numel() and not tensor.is_meta]
    return all((torch.stack(one.aminmax()) if one.dtype in _REAL else one).isfinite().all() for one in held)


def fuse_batch_norm(
    kernel: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    r"""Fuse a batch normalisation into the convolution before it (Eq. 2; "BN fusion" in Sect. 3.3).

    The new kernel is :math:`\frac{\gamma_j}{\sigma_j} F^{(j)}`, the new bias
    :math:`(b_j - \mu_j)\frac{\gamma_j}{\sigma_j} + \beta_j` with :math:`\sigma_j = \sqrt{\mathrm{var}_j + \epsilon}`.
    The computation uses the dtype of its inputs: pass float64 for an exact result.

    Args:
        kernel: Convolution kernel, ``(O, I/groups, kH, kW)``.
        bias: Convolution bias, ``(O,)``, or None.
        running_mean: Mean of the batch norm, ``(O,)``.
        running_var: Variance (not the standard deviation) of the batch norm, ``(O,)``.
        weight: Scale γ of the batch norm, ``(O,)``; None means 1 (``affine=False``).
        norm_bias: Shift β of the batch norm, ``(O,)``; None means 0 (``affine=False``).
        eps: Added to the variance.

    Returns:
        The fused kernel, of the same shape as ``kernel``, and bias, ``(O,)``.

    Examples:
        >>> kernel, bias = fuse_batch_norm(
        ...     torch.ones(1, 1, 3, 3), None, torch.tensor([2.0]), torch.tensor([4.0]), eps=0.0
        ... )
        >>> kernel.unique().tolist(), bias.tolist()
        ([0.5], [-1.0])
    """
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = weight * scale
    shift = -running_mean if bias is None else bias - running_mean
    fused_bias = shift * scale
    if norm_bias is not None:
        fused_bias = fused_bias + norm_bias
    return kernel * scale.reshape(-1, 1, 1, 1), fused_bias


def embed_kernel(kernel: Tensor, size: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Pad a smaller kernel with zeros to ``size``: the placement in ⊕ of Eq. 3, without the sum.

    Args:
        kernel: ``(O, I/groups, h, w)``.
        size: Height and width ``(kH, kW)`` of the result.
        offset: Row and column of the kernel's first weight in the result.

    Returns:
        ``(O, I/groups, kH, kW)``.

    Raises:
        ValueError: The kernel does not lie inside ``size`` at ``offset`` (Eq. 4).

    Examples:
        >>> embed_kernel(torch.ones(1, 1, 1, 3), (3, 3), (1, 0)).int()[0, 0].tolist()
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    """
    height, width = kernel.shape[-2:]
    top, left = offset
    bottom, right = size[0] - top - height, size[1] - left - width
    if min(top, left, bottom, right) < 0:
        raise ValueError(
            f"a {height}×{width} kernel at offset {offset} does not lie inside a {size[0]}×{size[1]} kernel (Eq. 4)"
        )
    return F.pad(kernel, (left, right, top, bottom))


def sum_branches(branches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Add fused branches that are embedded in the same window ("branch fusion", Eq. 6 and 7).

    Args:
        branches: Pairs of kernel ``(O, I/groups, kH, kW)`` and bias ``(O,)``, at least one.

    Returns:
        The summed kernel and bias.
    """
    kernels, biases = zip(*branches, strict=True)
    kernel, bias = kernels[0], biases[0]
    for other in kernels[1:]:
        kernel = kernel + other
    for other in biases[1:]:
        bias = bias + other
    return kernel, bias
