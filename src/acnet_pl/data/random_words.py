"""Random numbers that depend on their purpose, not on when they are drawn."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["random_words", "uniform_integers", "uniform_stream"]

_MASK = 2**64 - 1
_FIELD_BITS = 21  # three fields in a word of 63 usable bits
_GAMMA, _FACTOR_1, _FACTOR_2 = (x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def random_words(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Draw one 64-bit word for each sample: the SplitMix64 stream that (seed, epoch) starts, at position ``index``.

    The word of a sample depends on these three numbers alone: not on the batch it lies in, the number of processes,
    the device, or what was drawn before.

    Args:
        seed: Any integer of up to 64 bits.
        epoch: Any integer of up to 64 bits.
        indices: int64 ``(N,)``, on any device.

    Returns:
        int64 ``(N,)`` on the same device, uniform over all 2^64 bit patterns.

    Examples:
        >>> all_at_once = random_words(0, 3, torch.arange(8))
        >>> torch.equal(all_at_once[5:], random_words(0, 3, torch.arange(5, 8)))
        True
    """
    return _output(_key(seed, epoch), indices)


def uniform_integers(words: Tensor, field: int, bound: int) -> Tensor:
    """Cut one of the three independent 21-bit fields of each word, scaled to an integer in ``[0, bound)``.

    Args:
        words: int64, from `random_words`.
        field: 0, 1 or 2.
        bound: At most a few thousand: probabilities are off by up to ``bound / 2**21``, relatively.

    Returns:
        int64, the shape of ``words``.
    """
    bits = torch.bitwise_right_shift(words, _FIELD_BITS * field) & (2**_FIELD_BITS - 1)
    return torch.bitwise_right_shift(bits * bound, _FIELD_BITS)


@lru_cache(maxsize=64)
def _key(seed: int, epoch: int) -> int:
    key = int(_output(0, torch.tensor(_wrap(seed))))
    return int(_output(key, torch.tensor(_wrap(epoch))))


def _output(key: int, position: Tensor) -> Tensor:
    """Return SplitMix64's output number ``position`` from the state ``key``; int64 products wrap modulo 2^64."""
    word = (position + 1) * _GAMMA + key
    word = (word ^ _shift_right(word, 30)) * _FACTOR_1
    word = (word ^ _shift_right(word, 27)) * _FACTOR_2
    return word ^ _shift_right(word, 31)


def _shift_right(word: Tensor, bits: int) -> Tensor:
    # int64's own shift copies the sign bit.
    return torch.bitwise_and(torch.bitwise_right_shift(word, bits), 2 ** (64 - bits) - 1)


def _wrap(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def uniform_stream(word: int) -> Iterator[float]:
    """Yield uniform numbers in ``[0, 1)`` from SplitMix64, started in the state ``word``.

    Args:
        word: One word of `random_words`; any integer of 64 bits.

    Examples:
        >>> stream = uniform_stream(7)
        >>> round(next(stream), 4), round(next(stream), 4)
        (0.3898, 0.0168)
    """
    state = word % 2**64
    while True:
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        bits = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
        yield ((bits ^ (bits >> 31)) >> 11) / 2**53
