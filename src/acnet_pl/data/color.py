"""Shift brightness, contrast and saturation of a whole batch at random on the training device."""

from __future__ import annotations

from torch import Tensor

from acnet_pl.data.random_words import uniform_integers

__all__ = ["color_shift"]

_STEPS = 2000  # of each factor's grid
_LUMA = (0.299, 0.587, 0.114)


def color_shift(images: Tensor, words: Tensor, amount: float) -> Tensor:
    """Scale brightness, contrast and saturation of each image by factors of its own.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        words: Random words ``(N,)``, as `random_words` gives them.
        amount: Factors are uniform in ``[1 - amount, 1 + amount]``.

    Returns:
        uint8 ``(N, H, W, 3)``.
    """
    bright, contrast, saturation = (
        (1 + amount * (2 * uniform_integers(words, field, _STEPS + 1).float() / _STEPS - 1))[:, None, None, None]
        for field in range(3)
    )
    pixels = images.to(bright.dtype) * bright
    luma = (pixels * pixels.new_tensor(_LUMA)).sum(-1, keepdim=True)
    pixels = luma.mean((1, 2), keepdim=True).lerp(pixels, contrast)
    luma = (pixels * pixels.new_tensor(_LUMA)).sum(-1, keepdim=True)
    return luma.expand_as(pixels).lerp(pixels, saturation).round().clamp(0, 255).to(images.dtype)
