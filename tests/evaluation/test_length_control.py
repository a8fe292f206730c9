"""Length control against a dense grid and a coin's posterior, judges whose bias is known, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, log_expit, logit

from morlaif.evaluation.length_control import SCALE, dispersion, length_controlled, posterior, saturated


def simulate(rng, n, theta, phi):
    """Verdicts of the model itself on lengths that differ by chance and by habit."""
    first, second = rng.poisson(60, n) + rng.integers(0, 30, n), rng.poisson(55, n)
    gap = (first - second).astype(float)
    p = expit(theta + phi * np.tanh(gap / gap.std()))
    return (rng.random(n) < p).astype(float), first, second


@pytest.mark.slow
def test_mean_and_mass_are_those_of_a_sum_over_a_dense_grid():
    rng = np.random.default_rng(0)
    x = np.round(np.tanh(rng.normal(0.7, 1, 30)), 2)
    y = (rng.random(30) < expit(0.4 + x)).astype(float)
    theta, phi = np.linspace(-9, 9, 600)[:, None], np.linspace(-12, 12, 500)
    density = stats.norm.logpdf(phi, scale=SCALE) + (log_expit(theta) + log_expit(-theta)) / 2  # Beta(½, ½) of σ(θ)
    for outcome, at in zip(y, x, strict=True):
        density = density + np.where(outcome, log_expit(theta + phi * at), log_expit(-theta - phi * at))
    mass = np.exp(density) / np.exp(density).sum()

    made = posterior(y, x, SCALE)
    interval = made.interval_of_rate(30, 0.9)
    assert interval.value == pytest.approx((expit(theta) * mass).sum(), abs=1e-4)
    assert made.interval_of_phi(30, 0.9).value == pytest.approx((phi * mass).sum(), abs=1e-3)
    assert mass[theta[:, 0] > logit(interval.high)].sum() == pytest.approx(0.05, abs=3e-3)
    assert mass[theta[:, 0] < logit(interval.low)].sum() == pytest.approx(0.05, abs=3e-3)


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60))
def test_equal_lengths_leave_the_posterior_of_a_coin(wins, losses):
    if wins + losses == 0:
        return
    made = length_controlled([1] * wins + [0] * losses, [5] * (wins + losses), [5] * (wins + losses))
    coin = stats.beta(wins + 0.5, losses + 0.5)
    assert made.rate.value == pytest.approx(coin.mean(), abs=1e-3)
    assert (made.rate.low, made.rate.high) == pytest.approx((coin.ppf(0.025), coin.ppf(0.975)), abs=3e-3)
    assert made.withheld is None and made.result.coef_length.value is None


def test_a_judge_that_counts_words_is_seen_through():
    """The first is longer by habit and no better: it wins often, and evenly once length is out."""
    rng = np.random.default_rng(1)
    y, first, second = simulate(rng, 4000, 0.0, 2.5)
    made = length_controlled(y, first, second)
    assert y.mean() > 0.75 and made.longer > 0.8
    assert made.rate.low < 0.5 < made.rate.high and made.rate.high - made.rate.low < 0.12
    assert made.coefficient.low > 2


def test_a_judge_that_ignores_length_is_left_as_it_is():
    rng = np.random.default_rng(2)
    y, first, second = simulate(rng, 4000, 0.8, 0.0)
    made = length_controlled(y, first, second)
    assert made.rate.low < y.mean() < made.rate.high
    assert made.coefficient.low < 0 < made.coefficient.high


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 400), st.integers(0, 400)), min_size=1,
                max_size=25))  # fmt: skip
def test_any_verdicts_give_finite_numbers_that_swapping_mirrors(rows):
    y, first, second = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    mine, other = length_controlled(y, first, second), length_controlled(1 - y, second, first)
    assert 0 <= mine.rate.low <= mine.rate.high <= 1
    assert mine.rate.low == pytest.approx(1 - other.rate.high, abs=1e-6)
    assert (mine.withheld is None) == (other.withheld is None) == np.isfinite(mine.rate.value)
    if mine.withheld is None:
        assert mine.rate.low <= mine.rate.value <= mine.rate.high
        assert mine.rate.value + other.rate.value == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("always", [0, 1, 5, 10])
def test_intervals_cover_by_simulation(always):
    """`always`: mean of the difference in length over its deviation. Truths are drawn from the prior."""
    rng, hits, trials = np.random.default_rng(always), 0, 1000
    for _ in range(trials):
        x = saturated(rng.normal(always, 1, 10))
        rate, phi = rng.beta(0.5, 0.5), rng.normal(0, SCALE)
        y = (rng.random(10) < expit(logit(rate) + phi * x)).astype(float)
        interval = posterior(y, x, SCALE).interval_of_rate(10, 0.95)
        hits += interval.low <= rate <= interval.high
    assert 0.93 <= hits / trials <= 0.97


@pytest.mark.slow
def test_intervals_cover_one_fixed_truth():
    rng, hits, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        y, first, second = simulate(rng, 40, 0.4, 1.0)
        interval = posterior(y, saturated(first - second), SCALE).interval_of_rate(40, 0.95)
        hits += interval.low <= expit(0.4) <= interval.high
    assert 0.93 <= hits / trials <= 0.97


@pytest.mark.parametrize(
    ("outcome", "lengths"),
    [
        ([1, 1, 1, 0, 1, 1, 0, 1, 1, 0], np.linspace(300, 390, 10)),
        ([0, 0, 0, 1, 0, 0, 1, 0, 0, 1], np.linspace(-390, -300, 10)),
        ([1, 1, 0, 1] * 30, np.full(120, 300)),  # longer by as much on every prompt
        ([1] * 40, np.arange(40)),
        ([1] * 100, np.random.default_rng(0).normal(500, 50, 100)),
    ],
)
def test_a_side_that_is_always_longer_gets_an_interval_and_a_reason_but_no_figure(outcome, lengths):
    made = length_controlled(outcome, lengths, np.zeros(len(lengths)))
    assert made.result.value is None and made.rate.high - made.rate.low > 0.2
    side = "longer" if np.mean(lengths) > 0 else "shorter"
    assert made.withheld.startswith(f"the first answer is {side} on ")


def test_a_clean_sweep_stays_finite():
    made = length_controlled(np.ones(40), np.arange(40), np.full(40, 20))
    assert 0.8 < made.rate.value < 1 and np.isfinite(made.coefficient.value) and made.withheld is None


def test_ties_vary_less_than_a_coin():
    assert dispersion(np.array([1.0, 0.0, 1.0])) == pytest.approx(1)
    assert dispersion(np.full(40, 0.5)) == pytest.approx(0.25 / 10.25)
    lengths = np.arange(40), np.arange(40)[::-1]
    tied = length_controlled(np.full(40, 0.5), *lengths).rate
    thrown = length_controlled([0.0, 1.0] * 20, *lengths).rate
    assert tied.value == pytest.approx(0.5) and tied.high - tied.low < (thrown.high - thrown.low) / 3


def test_what_was_not_judged_is_left_out():
    y = np.array([1.0, 0.0, np.nan, 1.0, 0.5])
    lengths = np.array([9, 4, 1000, 7, 3]), np.array([5, 6, 1, 4, 4])
    kept = ~np.isnan(y)
    assert str(length_controlled(y, *lengths)) == str(length_controlled(y[kept], *(x[kept] for x in lengths)))
    nothing = length_controlled([np.nan], [1], [2])
    assert nothing.result.value is None and nothing.withheld == "no prompt has a valid verdict"


def test_by_ratio_it_is_a_logistic_read_where_lengths_are_equal():
    """A judge that sees the ratio alone (Lee et al. 2023): what is left at ratio 1 is what the answers are worth."""
    rng = np.random.default_rng(4)
    first, second = rng.integers(40, 160, 3000).astype(float), rng.integers(40, 120, 3000).astype(float)
    ratio = first / second
    y = (rng.random(3000) < expit(0.4 + 1.5 * (ratio - 1))).astype(float)
    made = length_controlled(y, first, second, by="ratio")
    assert y.mean() > made.rate.high and made.rate.low < expit(0.4) < made.rate.high
    assert made.coefficient.low < 1.5 * ratio.std() < made.coefficient.high and made.withheld is None


def test_ratios_that_are_far_out_overflow_nothing():
    first, second = [10.0] * 400 + [10000.0], [10.0] * 401
    made = length_controlled([1, 0] * 200 + [1], first, second, by="ratio")
    assert made.rate.low < 0.5 < made.rate.high
    alike = length_controlled([1, 1, 0], [20, 20, 20], [10, 10, 10], by="ratio")
    assert alike.withheld is not None and alike.longer == 1.0
