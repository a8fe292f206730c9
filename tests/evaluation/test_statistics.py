"""Each estimate against an independent oracle, its properties, and the coverage of its interval by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from morlaif.evaluation import statistics as s


@pytest.mark.parametrize("k, n", [(0, 10), (1, 10), (5, 10), (10, 10), (173, 300), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(k, n, confidence):
    oracle = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    mine = s.wilson(k / n, n, confidence)
    assert (mine.low, mine.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert mine.n == n


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_encloses_its_value_and_stays_in_the_unit_interval(n, share):
    interval = s.wilson(share, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_coverage_exact():
    """Sum of the binomial probabilities of the counts whose interval holds p: no simulation needed."""
    n, coverages = 300, []
    intervals = [s.wilson(k / n, n) for k in range(n + 1)]
    for p in np.linspace(0.05, 0.95, 19):
        inside = [i.low <= p <= i.high for i in intervals]
        coverages.append(float(stats.binom.pmf(np.arange(n + 1), n, p) @ inside))
    assert min(coverages) >= 0.93 and max(coverages) <= 0.97
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.005)


def test_accuracy_counts_undecided_half_and_leaves_out_unknown():
    interval = s.accuracy([1, 1, 0, 0.5, math.nan])
    assert (interval.value, interval.n) == (0.625, 4)
    assert math.isnan(s.accuracy([math.nan]).value) and s.accuracy([]).n == 0


def test_bootstrap_equals_enumeration_of_all_resamples():
    values = [0.0, 0.5, 1.0, 1.0]
    every = [np.mean(r) for r in itertools.product(values, repeat=4)]
    mine = s.bootstrap_mean(values, seed=0, resamples=40_000, confidence=0.8)
    assert mine.value == 0.625
    assert (mine.low, mine.high) == pytest.approx(tuple(np.quantile(every, [0.1, 0.9])), abs=1e-9)


def test_bootstrap_is_seeded():
    values = np.random.default_rng(1).random(50)
    assert s.bootstrap_mean(values, seed=3) == s.bootstrap_mean(values, seed=3) != s.bootstrap_mean(values, seed=4)


def test_win_rate_coverage_by_simulation():
    """Two orders of one prompt are dependent (one winner four times of five): intervals over prompts still cover."""
    rng, hits, trials, n, p = np.random.default_rng(0), 0, 1500, 150, 0.7
    for trial in range(trials):
        forward = (rng.random(n) < p).astype(float)
        backward = np.where(rng.random(n) < 0.8, forward, rng.random(n) < p)
        interval = s.win_rate(forward, backward, seed=trial, resamples=400).rate
        hits += interval.low <= p <= interval.high
    assert 0.93 <= hits / trials <= 0.97


def test_win_rate_by_hand():
    #            win   loss  tie(flip) tie   half win  invalid
    forward = [0.9, 0.2, 0.8, 0.5, 0.5, 0.9]
    backward = [0.7, 0.4, 0.3, 0.5, 0.6, 0.9]
    result = s.win_rate(forward, backward, [1, 1, 1, 1, 1, 0], seed=0)
    assert result.rate.value == pytest.approx((1 + 0 + 0.5 + 0.5 + 0.75) / 5)
    assert (result.rate.n, result.invalid) == (5, 1)
    assert (result.wins, result.ties, result.losses, result.flips) == pytest.approx((0.4, 0.4, 0.2, 0.2))


def test_a_clean_sweep_is_not_certainty():
    result = s.win_rate([1.0] * 50, [1.0] * 50, seed=0).rate
    assert result.value == result.high == 1 and result.low == pytest.approx(s.wilson(1, 50).low)
    assert s.win_rate([0.3], [0.3], [False], seed=0).as_dict()["value"] is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_swapping_the_candidates_mirrors_the_win_rate(pairs):
    forward, backward = np.array(pairs).T
    mine = s.win_rate(forward, backward, seed=0, resamples=100)
    mirrored = s.win_rate(-(backward - 0.5) + 0.5, -(forward - 0.5) + 0.5, seed=0, resamples=100)
    assert mine.rate.value + mirrored.rate.value == pytest.approx(1)
    assert (mine.wins, mine.ties, mine.flips) == pytest.approx((mirrored.losses, mirrored.ties, mirrored.flips))
    assert mine.wins + mine.ties + mine.losses == pytest.approx(1)


def test_kappa_of_a_table_computed_by_hand():
    # yes/yes 20, yes/no 5, no/yes 10, no/no 15: observed .7, expected .5·.6 + .5·.4 = .5
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert s.cohen_kappa(first, second) == pytest.approx(0.4)
    assert s.cohen_kappa(first, first) == 1
    assert math.isnan(s.cohen_kappa([1, 1], [1, 1]))
    with pytest.raises(ValueError, match="same, positive number"):
        s.cohen_kappa([1], [1, 2])


@pytest.mark.parametrize("method, oracle", [("pearson", np.corrcoef), ("spearman", lambda x: stats.spearmanr(x.T)[0])])
def test_correlation_equals_numpy_and_scipy(method, oracle):
    x = np.random.default_rng(0).normal(size=(40, 3))
    assert s.correlation(x, method) == pytest.approx(oracle(x.T))


def test_correlation_leaves_out_the_unknown_pair_by_pair():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:5, 0], x[7, 1], x[:, 2] = np.nan, np.nan, 4.0
    known = [i for i in range(5, 20) if i != 7]
    result = s.correlation(x)
    assert result[0, 1] == result[1, 0] == pytest.approx(np.corrcoef(x[known, 0], x[known, 1])[0, 1])
    assert np.isnan(result[2]).all()


def test_calibration_by_brute_force():
    rng = np.random.default_rng(0)
    p = np.append(rng.random(200), [0.0, 1.0])
    y = (rng.random(202) < p**2).astype(float)
    total = 0.0
    for b in range(10):
        low, high = b / 10, (b + 1) / 10
        members = [i for i in range(202) if low <= p[i] < high or (b == 9 and p[i] == 1)]
        if members:
            total += abs(sum(y[i] - p[i] for i in members)) / 202
    assert s.calibration_error(p, y) == pytest.approx(total)
    assert s.brier(p, y) == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / 202)


def test_a_calibrated_judge_has_little_error():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    assert s.calibration_error(p, rng.random(50_000) < p) < 0.01
