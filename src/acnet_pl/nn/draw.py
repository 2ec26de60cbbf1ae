"""How new kernels are drawn, and how the branches of a block draw theirs."""

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

"pytorch" is PyTorch's own, which the authors' code has: uniform with variance 1 / (3 · fan-in), so that a filter's
expected squared length is 1/3 whatever its size. "fan_out" is Kaiming-normal (He et al. 2015) with variance
2 / fan-out, of squared length 2 · C_in / C_out. At one learning rate the longer kernels of "fan_out" turn more slowly.
"""

Layer = TypeVar("Layer", bound=nn.Module)


def undrawn(layer: type[Layer], *args: Any, **kwargs: Any) -> Layer:
    """Build a layer without drawing its parameters, which are uninitialised.

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
        generator: Random numbers to use; None is PyTorch's global generator.

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
    """Make the random generator of one branch, seeded by the block's main kernel.

    A block that draws its other branches so takes from PyTorch's global generator exactly what the plain convolution
    takes. A plain network and its counterpart with blocks, made from one seed, then have the same main kernels.

    Args:
        main: The block's main kernel, already drawn.
        branch: Name of the branch; each has random numbers of its own.

    Returns:
        The generator; None on the meta device, where nothing is drawn.
    """
    if main.is_meta:
        return None
    values = main.detach().flatten()[:8].double().tolist()
    seed = zlib.crc32(struct.pack(f"{len(values)}d", *values) + branch.encode())
    return torch.Generator(device=main.device).manual_seed(seed)
