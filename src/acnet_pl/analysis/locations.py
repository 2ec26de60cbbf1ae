"""Parts of a k×k kernel: skeleton and corners, border and the rest (Sect. 4.4)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["LOCATIONS", "Location", "location_mask"]

Location = Literal["skeleton", "corner", "border", "top_left", "global"]
"""Where in a kernel weights are looked at or removed (Sect. 4.4)."""

LOCATIONS: tuple[Location, ...] = get_args(Location)
"""All values of `Location`."""


def location_mask(where: Location, size: int) -> Tensor:
    """Return the positions of a ``size`` × ``size`` kernel that belong to a location.

    Args:
        where: "skeleton", the central row and column; "corner", all others, which are the four corners of a 3×3
            kernel; "border", the bottom row and right column (Fig. 6c); "top_left", all others, which are the
            top-left 2×2 square of a 3×3 kernel; "global", every position.
        size: k, odd and at least 3.

    Returns:
        Booleans, ``(k, k)``.

    Raises:
        ValueError: There is no such location, or ``size`` is even or less than 3.

    Examples:
        >>> location_mask("skeleton", 3).int().tolist()
        [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    if where not in LOCATIONS:
        raise ValueError(f"`where` (={where!r}) must be one of {', '.join(map(repr, LOCATIONS))}")
    if size < 3 or size % 2 == 0:
        raise ValueError(f"`size` (={size}) must be odd and at least 3: other kernels have no skeleton")
    if where == "global":
        return torch.ones(size, size, dtype=torch.bool)
    line = size // 2 if where in ("skeleton", "corner") else size - 1
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[line, :] = True
    mask[:, line] = True
    return mask if where in ("skeleton", "border") else ~mask
