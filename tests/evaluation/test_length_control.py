"""Length control against a general optimiser, judges whose bias is known, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit, log_expit

from morlaif.evaluation.length_control import fit, length_controlled


def simulate(rng, n, theta, phi):
    """Verdicts of the model itself on lengths that differ by chance and by habit."""
    first, second = rng.poisson(60, n) + rng.integers(0, 30, n), rng.poisson(55, n)
    gap = (first - second).astype(float)
    p = expit(theta + phi * np.tanh(gap / gap.std()))
    return (rng.random(n) < p).astype(float), first, second


def test_the_fit_maximises_the_likelihood_times_jeffreys_prior():
    rng = np.random.default_rng(0)
    y, first, second = simulate(rng, 60, 0.3, 1.0)
    y[:10] = 0.5  # ties and half wins are shares
    gap = (first - second).astype(float)
    weight = rng.integers(0, 3, 60).astype(float)
    mean = (weight * gap).sum() / weight.sum()
    x = np.tanh(gap / np.sqrt((weight * (gap - mean) ** 2).sum() / weight.sum()))
    design = np.stack([np.ones(60), x], axis=1)

    def loss(beta):
        z = design @ beta
        information = (design * (weight * expit(z) * expit(-z))[:, None]).T @ design
        return -(weight * (y * log_expit(z) + (1 - y) * log_expit(-z))).sum() - np.linalg.slogdet(information)[1] / 2

    best = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x
    assert fit(y, gap, weight[None])[0] == pytest.approx(best, abs=1e-5)


def test_a_judge_that_counts_words_is_seen_through():
    """The first is longer by habit and no better: it wins often, and evenly once length is out."""
    rng = np.random.default_rng(1)
    y, first, second = simulate(rng, 4000, 0.0, 2.5)
    made = length_controlled(y, first, second, seed=0, resamples=400)
    assert y.mean() > 0.75 and made.longer > 0.8
    assert made.rate.low < 0.5 < made.rate.high and made.rate.high - made.rate.low < 0.12
    assert made.coefficient.low > 2


def test_a_judge_that_ignores_length_is_left_as_it_is():
    rng = np.random.default_rng(2)
    y, first, second = simulate(rng, 4000, 0.8, 0.0)
    made = length_controlled(y, first, second, seed=0, resamples=400)
    assert made.rate.low < y.mean() < made.rate.high
    assert made.coefficient.low < 0 < made.coefficient.high


def test_swapping_the_candidates_mirrors_the_rate():
    rng = np.random.default_rng(3)
    y, first, second = simulate(rng, 200, 0.5, 1.0)
    mine = length_controlled(y, first, second, seed=0, resamples=200)
    other = length_controlled(1 - y, second, first, seed=0, resamples=200)
    assert mine.rate.value + other.rate.value == pytest.approx(1)
    assert mine.rate.low == pytest.approx(1 - other.rate.high)
    assert mine.coefficient.value == pytest.approx(other.coefficient.value)


def test_intervals_cover_by_simulation():
    rng, hits, trials = np.random.default_rng(0), 0, 500
    for trial in range(trials):
        made = length_controlled(*simulate(rng, 120, 0.4, 1.0), seed=trial, resamples=300)
        hits += made.rate.low <= expit(0.4) <= made.rate.high
    assert 0.93 <= hits / trials <= 0.97


def test_a_clean_sweep_stays_finite():
    made = length_controlled(np.ones(40), np.arange(40), np.zeros(40), seed=0, resamples=200)
    assert 0.8 < made.rate.value < 1 and np.isfinite(made.coefficient.value)


def test_equal_lengths_leave_the_plain_rate_and_no_coefficient():
    made = length_controlled([1, 1, 1, 0], [5] * 4, [5] * 4, seed=0, resamples=200)
    assert made.rate.value == pytest.approx(3.5 / 5) and made.as_dict()["coef_length"]["value"] is None


def test_what_was_not_judged_is_left_out():
    y = np.array([1.0, 0.0, np.nan, 1.0, 0.5])
    lengths = np.array([9, 4, 1000, 7, 3]), np.array([5, 6, 1, 4, 4])
    kept = ~np.isnan(y)
    mine = length_controlled(y, *lengths, seed=0, resamples=100)
    assert mine == length_controlled(y[kept], *(x[kept] for x in lengths), seed=0, resamples=100)
    assert length_controlled([np.nan], [1], [2], seed=0).as_dict()["value"] is None
