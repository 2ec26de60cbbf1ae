from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, ttest_1samp, ttest_rel

from acnet_pl.reproduce.statistics import (
    Sample,
    adjusted,
    correlation,
    holm,
    in_percent,
    paired_difference,
    pairs_needed,
)

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
    if difference.std > 1e-5:
        expected = ttest_rel(b, a).confidence_interval(0.95)
        assert difference.p_value() == pytest.approx(ttest_rel(b, a).pvalue, rel=1e-6, abs=1e-12)
        assert difference.interval() == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(FIGURES)
def test_the_correlation_is_pearsons_with_fishers_interval(figures: list[tuple[float, float]]) -> None:
    base, other = (Sample({seed: pair[part] for seed, pair in enumerate(figures)}) for part in (0, 1))
    found = correlation(base, other)
    a, b = np.array(figures).T
    assert found.n == len(figures)
    if len(figures) < 3 or min(np.ptp(a), np.ptp(b)) == 0:
        assert found.value is None
    elif min(np.ptp(a), np.ptp(b)) > 1e-3:
        reference = pearsonr(a, b)
        assert found.value == pytest.approx(reference.statistic, abs=1e-7)
        if len(figures) > 3 and abs(reference.statistic) < 0.999:
            assert found.interval == pytest.approx(tuple(reference.confidence_interval(0.95)), abs=1e-6)


def test_only_pairs_are_correlated() -> None:
    found = correlation(Sample({0: 1.0, 1: 2.0, 2: 3.0, 9: 0.0}), Sample({2: 1.0, 1: 2.0, 0: 3.0, 5: 7.0}))
    assert str(found) == "-1.00 (n = 3, too few for an interval)"
    assert str(correlation(Sample({0: 1.0}), Sample({0: 2.0}))) == "unknown (n = 1)"


def test_one_pair_has_no_spread_and_no_interval() -> None:
    difference = paired_difference(Sample({0: 80.0, 1: 81.0}), Sample({1: 83.0, 2: 90.0}))
    assert (difference.values, difference.std, difference.interval()) == ({1: 2.0}, None, None)


def test_differences_that_rounding_alone_tells_apart_have_no_interval_and_count_as_a_comparison() -> None:
    plain = in_percent({seed: 0.7801 + 0.0013 * seed for seed in range(8)})
    equal = paired_difference(plain, in_percent({seed: 0.7901 + 0.0013 * seed for seed in range(8)}))
    assert (equal.std, equal.interval(), equal.p_value()) == (0, None, None)
    assert Sample({0: 0.1 + 0.2, 1: 0.3}).interval() is None
    other = paired_difference(plain, in_percent({seed: 0.79 + 0.002 * seed for seed in range(8)}))
    p = other.p_value()
    assert p is not None
    assert adjusted({"equal": equal, "other": other, "none": Sample({})}) == {"equal": None, "other": 2 * p}


def test_a_figure_that_is_not_a_number_has_no_interval() -> None:
    sample = Sample({0: math.nan, 1: 80.0})
    assert math.isnan(sample.std or 0)
    assert (sample.interval(), sample.p_value()) == (None, None)


def test_no_pair_has_no_mean() -> None:
    nothing = paired_difference(Sample({0: 80.0}), Sample({}))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert nothing.as_dict()["mean"] is None


@pytest.mark.parametrize(("effect", "pairs"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_the_pairs_that_a_gain_needs_are_those_of_published_tables(effect: float, pairs: int) -> None:
    """Paired t test, two-sided 5 %, 80 % power, as G*Power has it."""
    assert pairs_needed(effect, 1.0) == pairs_needed(-3 * effect, 3.0) == pairs


def test_the_power_is_that_of_simulated_experiments() -> None:
    pairs, rng = pairs_needed(0.66, 0.5) or 0, np.random.default_rng(0)
    found = []
    for n in (pairs - 1, pairs):
        gains = rng.normal(0.66, 0.5, (20_000, n))
        found.append((ttest_1samp(gains, 0, axis=1).pvalue < 0.05).mean())
    assert found[0] < 0.8 <= found[1] + 0.01


def test_a_gain_without_spread_or_of_zero() -> None:
    assert pairs_needed(0.1, 0.0) == 2
    assert pairs_needed(0.0281, 1.0) == pytest.approx(9_942, abs=3)  # (1.960 + 0.842)² / 0.0281² + 2
    assert pairs_needed(0.028, 1.0) is None
    assert pairs_needed(0.0001, 1.0) is None
    with pytest.raises(ValueError, match="must not be 0"):
        pairs_needed(0.0, 1.0)


def test_holm_is_bonferroni_for_the_smallest_and_never_falls() -> None:
    # By hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and the largest so far for 0.04.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
