"""Each estimate against an independent oracle, its properties, and the coverage of its interval by simulation."""

from __future__ import annotations

import itertools
import math

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from morlaif import statistics as s

NAN = math.nan


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


@pytest.mark.slow
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
    assert (result.win, result.tie, result.loss, result.flip_rate) == pytest.approx((0.4, 0.4, 0.2, 0.2))


def test_a_clean_sweep_is_not_certainty():
    result = s.win_rate([1.0] * 50, [1.0] * 50, seed=0).rate
    assert result.value == result.high == 1 and result.low == pytest.approx(s.wilson(1, 50).low)
    assert s.win_rate([0.3], [0.3], [False], seed=0).rate.as_dict()["value"] is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_swapping_the_candidates_mirrors_the_win_rate(pairs):
    forward, backward = np.array(pairs).T
    mine = s.win_rate(forward, backward, seed=0, resamples=100)
    mirrored = s.win_rate(-(backward - 0.5) + 0.5, -(forward - 0.5) + 0.5, seed=0, resamples=100)
    assert mine.rate.value + mirrored.rate.value == pytest.approx(1)
    assert (mine.win, mine.tie, mine.flip_rate) == pytest.approx((mirrored.loss, mirrored.tie, mirrored.flip_rate))
    assert mine.win + mine.tie + mine.loss == pytest.approx(1)


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


def test_reliability_bins_hold_all_items_and_their_gap_is_the_calibration_error():
    rng = np.random.default_rng(1)
    p, y = rng.random(300), (rng.random(300) < 0.4).astype(float)
    bins = s.reliability(p, y)
    assert sum(b["n"] for b in bins) == 300 and all(0 <= b["outcome"] <= 1 for b in bins)
    assert s.calibration_error(p, y) == pytest.approx(
        sum(abs(b["outcome"] - b["probability"]) * b["n"] for b in bins) / 300
    )


ALPHA_RATINGS = np.array([  # four raters, twelve items, with gaps
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
])  # fmt: skip


@pytest.mark.parametrize("level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, published):
    """Krippendorff's own worked example ("Computing Krippendorff's Alpha-Reliability", 2011), and the library."""
    assert s.krippendorff_alpha(ALPHA_RATINGS, level) == pytest.approx(published, abs=5e-4)
    assert s.krippendorff_alpha(ALPHA_RATINGS, level) == pytest.approx(
        krippendorff.alpha(reliability_data=ALPHA_RATINGS, level_of_measurement=level)
    )


LEVELS = st.sampled_from(["nominal", "ordinal", "interval"])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(3, 15), st.integers(0, 10_000), LEVELS)
def test_alpha_equals_the_library(raters, items, seed, level):
    rng = np.random.default_rng(seed)
    ratings = rng.choice([1.0, 2.0, 4.0, NAN], size=(raters, items), p=[0.3, 0.3, 0.2, 0.2])
    ratings[:2, 0], ratings[:2, 1] = 1.0, 2.0  # two values, each rated twice
    expected = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
    assert s.krippendorff_alpha(ratings, level) == pytest.approx(expected, abs=1e-12)


def test_alpha_at_the_ends():
    assert s.krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == 1
    assert math.isnan(s.krippendorff_alpha([[1, 1], [1, 1]]))
    assert s.krippendorff_alpha([[0, 1], [1, 0]]) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="none of nominal"):
        s.krippendorff_alpha([[1, 2], [1, 2]], "ratio")


def test_resample_counts_are_draws_with_replacement():
    counts = s.resample_counts(7, seed=0, resamples=4000)
    assert (counts.sum(axis=1) == 7).all() and counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    values = np.random.default_rng(0).random(7)
    alone = s.bootstrap_mean(values, seed=0, resamples=4000)
    shared = s.percentiles(alone.value, counts @ values / 7, 7)
    assert (shared.low, shared.high) == pytest.approx((alone.low, alone.high)), "the resamples of `bootstrap_mean`"


@pytest.mark.slow
def test_crossed_bootstrap_covers_where_units_and_conditions_both_vary():
    rng, crossed, plain, trials = np.random.default_rng(0), 0, 0, 300
    for trial in range(trials):
        x = rng.normal(size=(60, 1)) + rng.normal(size=(1, 20)) + rng.normal(size=(60, 20))
        interval = s.bootstrap_crossed(x, seed=trial, resamples=300)
        crossed += interval.low <= 0 <= interval.high
        interval = s.bootstrap_mean(x.mean(axis=1), seed=trial, resamples=300)
        plain += interval.low <= 0 <= interval.high
    assert 0.92 <= crossed / trials <= 0.98 and plain / trials < 0.85, "units alone are too sure"


def test_kappa_equals_alpha_of_two_raters_in_the_limit():
    """α pools the raters' margins and corrects for n; with equal margins and many items it is κ."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 20_000)
    b = np.where(rng.random(20_000) < 0.7, a, 1 - a)
    assert s.krippendorff_alpha(np.array([a, b], dtype=float)) == pytest.approx(s.cohen_kappa(a, b), abs=1e-3)
