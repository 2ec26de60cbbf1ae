from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from acnet_pl.reproduce.statistics import Sample, paired_difference

FIGURES = st.lists(st.tuples(st.floats(50, 99), st.floats(50, 99)), min_size=2, max_size=8)


@settings(deadline=None, derandomize=True)
@given(FIGURES)
def test_the_interval_is_that_of_the_paired_t_test(figures: list[tuple[float, float]]) -> None:
    base = Sample({seed: pair[0] for seed, pair in enumerate(figures)})
    other = Sample({seed: pair[1] for seed, pair in enumerate(figures)})
    difference = paired_difference(base, other)
    a, b = np.array(figures).T
    assert difference.std is not None
    assert difference.mean == pytest.approx((b - a).mean(), abs=1e-9)
    assert difference.std == pytest.approx((b - a).std(ddof=1), abs=1e-9)
    if difference.std > 1e-9:
        expected = ttest_rel(b, a).confidence_interval(0.95)
        assert difference.interval() == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_one_pair_has_no_spread_and_no_interval() -> None:
    difference = paired_difference(Sample({0: 80.0, 1: 81.0}), Sample({1: 83.0, 2: 90.0}))
    assert (difference.values, difference.std, difference.interval()) == ({1: 2.0}, None, None)


def test_no_pair_has_no_mean() -> None:
    nothing = paired_difference(Sample({0: 80.0}), Sample({}))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert nothing.as_dict()["mean"] is None
