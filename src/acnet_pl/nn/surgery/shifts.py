"""Arithmetic of shifts: constants per channel by which a value differs from the stock model's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImpossibleError", "UnprovenError", "Value", "added", "concatenated", "same_shift", "through_kernel"]


class UnprovenError(Exception):
    """A shift becomes something other than a constant per channel, or may do so."""

    def __init__(self, sources: Collection[str], why: str) -> None:
        super().__init__(why)
        self.sources = frozenset(sources)


class ImpossibleError(Exception):
    """No input takes this path, because the channels of a value do not fit."""


@dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
        channels: The number of channels of a value ``(N, C, H, W)``; None if it has another shape or is unknown.
        shift: Its offset ``(C,)`` from the stock model's value, in float64; None if it is the same.
        sources: The layers that cause the offset.
        flat: Whether a value with a shift is ``(N, C)``, or ``(N, C * H * W)`` flattened, instead of ``(N, C, H, W)``.
    """

    channels: int | None = None
    shift: Tensor | None = None
    sources: frozenset[str] = frozenset()
    flat: bool = False


def same_shift(one: Tensor | None, other: Tensor | None) -> bool:
    """Return True if two shifts are equal up to rounding, or if there are none."""
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-12)


def added(values: Sequence[Value]) -> Value:
    """Return the sum of values, and perhaps of constants.

    Raises:
        UnprovenError: The sum may have a larger shape than a value with a shift.
    """
    sources = frozenset[str]().union(*(value.sources for value in values))
    shifts = [value.shift for value in values if value.shift is not None]
    channels = {value.channels for value in values if value.channels is not None}
    if not shifts:
        unknown = len(values) > 1 and any(value.channels is None for value in values)
        most = max(channels, default=None)
        return Value(None if unknown and most == 1 else most)
    size = shifts[0].numel()
    if any(shift.numel() != size for shift in shifts) or channels - {size}:
        raise UnprovenError(sources, "an addition broadcasts its channels")
    flat = {value.flat for value in values if value.shift is not None}
    if len(flat) > 1 or (len(shifts) < len(values) and (True in flat or size == 1)):
        raise UnprovenError(sources, "an addition may broadcast it")
    return Value(None if True in flat else size, sum(shifts[1:], shifts[0]), sources, True in flat)


def concatenated(values: Sequence[Value], along_channels: bool) -> Value:
    """Return the concatenation of values.

    Raises:
        UnprovenError: The channels of a shift are not known afterwards.
    """
    sources = frozenset[str]().union(*(value.sources for value in values))
    known = [value.channels for value in values if value.channels is not None]
    complete = along_channels and len(known) == len(values)
    if not sources:
        return Value(sum(known) if complete else None)
    if not complete:
        raise UnprovenError(sources, "it is concatenated with a value of unknown size")
    like = next(value.shift for value in values if value.shift is not None)
    parts = zip(known, values, strict=True)
    shifts = [like.new_zeros(count) if value.shift is None else value.shift for count, value in parts]
    return Value(sum(known), torch.cat(shifts), sources)


def through_kernel(shift: Tensor, kernel: Tensor, groups: int) -> Tensor:
    """Return the shift ``(O,)`` of an unpadded convolution's output.

    Args:
        shift: The input's shift ``(I,)``.
        kernel: The kernel ``(O, I/groups, kH, kW)``, in float64.
        groups: The number of groups.
    """
    per_group = shift.reshape(groups, 1, -1)
    return (kernel.sum((2, 3)).reshape(groups, -1, kernel.shape[1]) * per_group).sum(2).flatten()
