"""random_words against SplitMix64 in Python's integers, and against chance."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acnet_pl.data.random_words import random_words, uniform_integers

MASK = 2**64 - 1
LEAST_P = 1e-4  # nothing here is drawn anew: a test that passes once passes always


def splitmix64(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def output(state: int, position: int) -> int:
    """The output at a position, reached by jumping: the state is a counter."""
    return next(splitmix64((state + position * 0x9E3779B97F4A7C15) & MASK))


def test_reference_gives_the_published_first_outputs() -> None:
    stream = splitmix64(0)
    assert [next(stream) for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert output(0, 2) == 0x06C45D188009454F


@settings(deadline=None, derandomize=True)
@given(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=40),
)
def test_is_splitmix64(seed: int, epoch: int, indices: list[int]) -> None:
    words = random_words(seed, epoch, torch.tensor(indices))
    key = output(output(0, seed & MASK), epoch)
    assert [int(word) & MASK for word in words] == [output(key, index) for index in indices]


@cache
def drawn(over: str) -> torch.Tensor:
    """Words of many indices, epochs or seeds."""
    if over == "indices":
        return random_words(5, 7, torch.arange(20_000))
    zero = torch.tensor([0])
    return torch.cat([random_words(i, 0, zero) if over == "seeds" else random_words(0, i, zero) for i in range(4_000)])


@pytest.mark.parametrize("bound", [2, 9, 17, 64, 2001])
@pytest.mark.parametrize("field", [0, 1, 2])
@pytest.mark.parametrize("over", ["indices", "epochs", "seeds"])
def test_is_uniform(bound: int, field: int, over: str) -> None:
    words = drawn(over)
    n = len(words)
    values = uniform_integers(words, field, bound).numpy()
    assert values.min() >= 0
    assert values.max() < bound
    counts = np.bincount(values, minlength=bound)
    if bound > 100:  # keep enough in each bin for the χ² approximation
        counts = np.array([part.sum() for part in np.array_split(counts, 23)])
        expected = np.array([len(part) for part in np.array_split(np.arange(bound), 23)]) * n / bound
    else:
        expected = np.full(bound, n / bound)
    assert scipy.stats.chisquare(counts, expected).pvalue > LEAST_P


@pytest.mark.parametrize(
    ("seed", "epoch", "step", "field"),
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 2), (1, -1, 0, 0), (0, 1, -1, 0)],
    ids=["next seed", "next epoch", "next index", "field 1", "field 2", "seed against epoch", "epoch against index"],
)
def test_neighbours_are_independent(seed: int, epoch: int, step: int, field: int) -> None:
    indices = torch.arange(1, 30_001)
    first = uniform_integers(random_words(3, 5, indices), 0, 9).numpy()
    second = uniform_integers(random_words(3 + seed, 5 + epoch, indices + step), field, 9).numpy()
    table = np.zeros((9, 9))
    np.add.at(table, (first, second), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > LEAST_P


def test_test_of_independence_finds_dependence() -> None:
    values = uniform_integers(random_words(3, 5, torch.arange(30_000)), 0, 9).numpy()
    table = np.zeros((9, 9))
    np.add.at(table, (values, (values + np.arange(30_000) % 8) % 9), 1)
    assert scipy.stats.chi2_contingency(table).pvalue < LEAST_P
