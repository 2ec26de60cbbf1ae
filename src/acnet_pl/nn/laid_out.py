"""Modules whose shape is fixed once they are built."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["LaidOut"]

_SHAPE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class LaidOut(nn.Module):
    """A module in which other layers have been laid out for its shape, so that a change of it would be ignored.

    ``conv.stride = (1, 1)``, as in DeepLab, changes an ``nn.Conv2d``; here it is an error.
    """

    def lay_out(self) -> None:
        """Fix the shape from now on."""
        self._is_laid_out = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but not the shape.

        Raises:
            AttributeError: The shape would change.
        """
        before = vars(self)
        if name in _SHAPE and "_is_laid_out" in before and before[name] != value:
            raise AttributeError(
                f"the {name} of a {type(self).__name__} cannot change from {before[name]} to {value}: its branches "
                "were laid out for it; set it on the convolution before converting, or on the fused network"
            )
        super().__setattr__(name, value)
