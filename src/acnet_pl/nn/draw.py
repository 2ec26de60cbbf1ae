"""Distributions of new kernels, and the random generators of a block's branches."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Device", "KernelDraw", "branch_generator", "draw_kernel", "placed"]

KernelDraw = Literal["pytorch", "fan_out"]
"""The distribution of a new kernel.

"pytorch" is PyTorch's default, which the authors' code uses: uniform with variance 1 / (3 · fan-in). A filter's
expected squared length is then 1/3, whatever its size. "fan_out" is Kaiming-normal (He et al. 2015) with variance
2 / fan-out: the squared length is 2 · C_in / C_out. At the same learning rate, longer kernels turn more slowly.
"""

Device = torch.device | str | int
"""A device, as ``device=`` of nn.Conv2d takes it."""


@contextmanager
def placed(block: nn.Module, device: Device | None, dtype: torch.dtype | None) -> Iterator[None]:
    """Build the layers of a block within this context; on leaving it they get memory, and ``reset_parameters`` draws.

    Within the context layers are made on the meta device, so nothing is allocated or drawn twice. A block on the meta
    device gets the same draw later from ``to_empty`` and its own ``reset_parameters``, called after those of its layers
    if at all, as ``nn.Module.apply`` does.

    Args:
        block: The block, which has the method ``reset_parameters``.
        device: Where its tensors live; None is PyTorch's default device.
        dtype: Their dtype; None is PyTorch's default dtype.

    Raises:
        ValueError: The dtype is not a real floating-point one.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"`dtype` (={dtype}) must be a real floating-point dtype, such as torch.float32")
    where = torch.empty(0).device if device is None else device
    with torch.device("meta"):
        yield
    block.to(dtype=dtype).to_empty(device=where)
    block.reset_parameters()  # type: ignore[operator]


@torch.no_grad()
def draw_kernel(weight: Tensor, draw: KernelDraw, generator: torch.Generator | None = None) -> None:
    """Draw a kernel or weight matrix, in place.

    Args:
        weight: ``(O, I/groups, kH, kW)`` or ``(O, I)``.
        draw: The distribution.
        generator: Source of random numbers; None is PyTorch's global generator.

    Examples:
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
    values = main.detach().flatten()[:8].tolist()
    seed = zlib.crc32(struct.pack(f"{len(values)}d", *values) + branch.encode())
    return torch.Generator(device=main.device).manual_seed(seed)
