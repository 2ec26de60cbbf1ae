"""Distributions of new kernels, and the random generators of a block's branches."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["KernelDraw", "branch_generator", "draw_kernel", "undrawn"]

KernelDraw = Literal["pytorch", "fan_out"]
"""The distribution of a new kernel.

"pytorch" is PyTorch's default, which the authors' code uses: uniform with variance 1 / (3 · fan-in). A filter's
expected squared length is then 1/3, whatever its size. "fan_out" is Kaiming-normal (He et al. 2015) with variance
2 / fan-out: the squared length is 2 · C_in / C_out. At the same learning rate, longer kernels turn more slowly.
"""

Layer = TypeVar("Layer", bound=nn.Module)


def undrawn(layer: type[Layer], *args: Any, **kwargs: Any) -> Layer:
    """Build a layer with uninitialised parameters, without drawing random numbers.

    Args:
        layer: Class of the layer.
        *args: Its arguments.
        **kwargs: Its keyword arguments.
    """
    with torch.device("meta"):
        made = layer(*args, **kwargs)
    return made.to_empty(device=torch.get_default_device())


@torch.no_grad()
def draw_kernel(weight: Tensor, draw: KernelDraw, generator: torch.Generator | None = None) -> None:
    """Draw a kernel or weight matrix, in place.

    Args:
        weight: ``(O, I/groups, kH, kW)`` or ``(O, I)``.
        draw: The distribution.
        generator: Source of random numbers; None is PyTorch's global generator.

    Example:
        >>> weight = torch.empty(64, 32, 3, 3)
        >>> draw_kernel(weight, "pytorch")
        >>> round(float(weight.pow(2).sum((1, 2, 3)).mean()), 2)
        0.33
    """
    if draw == "fan_out":
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
    else:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def branch_generator(main: Tensor, branch: str) -> torch.Generator | None:
    """Return the random generator of one branch, seeded by the block's main kernel.

    A block that draws its other branches this way uses exactly as many numbers of PyTorch's global generator as the
    plain convolution. A plain network and its counterpart with blocks then have the same main kernels for a seed.

    Args:
        main: The block's main kernel, already drawn.
        branch: Name of the branch; every branch has its own random numbers.

    Returns:
        The generator; None on the meta device, where nothing is drawn.
    """
    if main.is_meta:
        return None
    values = main.detach().flatten()[:8].double().tolist()
    seed = zlib.crc32(struct.pack(f"{len(values)}d", *values) + branch.encode())
    return torch.Generator(device=main.device).manual_seed(seed)
