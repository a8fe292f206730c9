"""Strengths against a general optimiser, `choix` (no ties), a hand-worked case, and coverage by simulation."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from morlaif.evaluation import bradley_terry
from morlaif.evaluation.bradley_terry import Strengths, fit, pooled, strengths
from morlaif.evaluation.matrix import WinMatrix
from morlaif.statistics import Interval


def draw(rng, theta, tie, prompts, pairs=None):
    """A matrix of prompts judged by Davidson's model itself."""
    size = len(theta)
    rows = []
    for i in range(size):
        for j in range(i + 1, size):
            weight = np.array([math.exp((theta[i] - theta[j]) / 2), tie, math.exp((theta[j] - theta[i]) / 2)])
            rows.append(rng.choice([1.0, 0.5, 0.0], size=prompts, p=weight / weight.sum()))
    outcome = np.array(rows)
    return WinMatrix(tuple("abcdefgh"[:size]), outcome, np.zeros(outcome.shape, dtype=bool))


def brute_force(wins, ties):
    """Negative log-likelihood written with loops and minimised without derivatives of ours."""
    size = len(wins)

    def loss(x):
        theta, eta, total = np.append(x[: size - 1], -x[: size - 1].sum()), x[size - 1], 0.0
        for i in range(size):
            for j in range(i + 1, size):
                weights = math.exp(theta[i]), math.exp(theta[j]), math.exp(eta + (theta[i] + theta[j]) / 2)
                for count, weight in zip((wins[i][j], wins[j][i], ties[i][j]), weights, strict=True):
                    total -= count * math.log(weight / sum(weights))
        return total

    best = optimize.minimize(loss, np.zeros(size), method="BFGS", options={"gtol": 1e-7}).x
    return np.append(best[: size - 1], -best[: size - 1].sum()), math.exp(best[size - 1])


def wald(names, wins, ties, *, prior=1.0):
    """From counts alone: Wald intervals at 95 %, as if verdicts were independent."""
    theta, tie = fit(wins, ties, prior=prior)
    padded_wins, padded_ties = bradley_terry._with_prior(wins, ties, prior, (wins + wins.T + ties) > 0)
    eta = math.log(tie) if tie > 0 else -math.inf
    _, information = bradley_terry._score(theta[None], np.array([eta]), padded_wins[None], padded_ties[None])
    size = len(names)
    kept = slice(0, size + (tie > 0))
    variance = np.diag(np.linalg.pinv(information[0][kept, kept]))[:size]
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    n = (wins + ties / 2).sum(axis=1) + (wins + ties / 2).sum(axis=0)
    made = tuple(Interval(float(t), float(t - h), float(t + h), int(k)) for t, h, k in zip(theta, half, n, strict=True))
    return Strengths(tuple(names), made, float(tie))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10_000))
def test_the_fit_is_the_maximum_of_the_likelihood(size, seed):
    rng = np.random.default_rng(seed)
    wins = rng.integers(1, 40, (size, size)) * (1 - np.eye(size))
    ties = np.triu(rng.integers(1, 20, (size, size)), 1)
    ties = ties + ties.T
    theta, tie = fit(wins, ties)
    expected, expected_tie = brute_force(wins, ties)
    assert theta == pytest.approx(expected, abs=2e-4) and float(tie) == pytest.approx(expected_tie, rel=1e-3)


def test_without_ties_it_is_bradley_terry_as_choix_fits_it():
    rng = np.random.default_rng(3)
    wins = rng.integers(1, 60, (6, 6)) * (1.0 - np.eye(6))
    theta, tie = fit(wins, np.zeros((6, 6)))
    assert theta == pytest.approx(choix.ilsr_pairwise_dense(wins, alpha=0, max_iter=10_000, tol=1e-12), abs=1e-6)
    assert tie == 0


def test_two_policies_by_hand():
    # P(win) : P(loss) : P(tie) = 30 : 10 : 20 = π_a : π_b : ν √(π_a π_b), so π_a/π_b = 3 and ν = 20/√300
    theta, tie = fit(np.array([[0, 30], [10, 0]]), np.array([[0, 20], [20, 0]]))
    assert theta == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert float(tie) == pytest.approx(20 / math.sqrt(300))
    made = wald(("a", "b"), np.array([[0, 30], [10, 0]]), np.array([[0, 20], [20, 0]]), prior=0)
    assert made.probability("a", "b") == pytest.approx((0.5, 1 / 3, 1 / 6))
    assert made.as_dict()["elo"][0] - made.as_dict()["elo"][1] == pytest.approx(400 * math.log10(3))
    # information of a = (θ_a − θ_b)/2 is n (p_w + p_l − (p_w − p_l)²) less what ν takes; θ_a = a here
    p, q, t = 1 / 2, 1 / 6, 1 / 3
    information = 60 * (p + q - (p - q) ** 2 - ((p - q) * t) ** 2 / (t * (1 - t)))
    half = 1.959963984540054 / math.sqrt(information)
    assert made.strength[0].high - made.strength[0].value == pytest.approx(half, rel=1e-6)


def test_a_policy_that_never_lost_keeps_a_finite_strength_only_with_the_prior():
    wins, ties = np.array([[0.0, 20, 20], [0, 0, 10], [0, 10, 0]]), np.zeros((3, 3))
    with pytest.raises(ValueError, match="no finite maximum"):
        fit(wins, ties)
    theta, _ = fit(wins, ties, prior=1.0)
    assert theta[0] > 2 > abs(theta[1]) and theta[1] == pytest.approx(theta[2])


def test_groups_that_never_met_are_an_error():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = 5
    with pytest.raises(ValueError, match=r"\[2, 3\] were never compared"):
        fit(wins, np.zeros((4, 4)), prior=1.0)


def test_resamples_fitted_together_equal_fits_one_by_one():
    rng = np.random.default_rng(0)
    wins, ties = rng.integers(1, 30, (5, 3, 3)) * (1 - np.eye(3)), np.zeros((5, 3, 3))
    ties[:, 0, 1] = ties[:, 1, 0] = rng.integers(1, 9, 5)
    together = fit(wins, ties, prior=1.0)
    for r in range(5):
        alone = fit(wins[r], ties[r], prior=1.0)
        assert together[0][r] == pytest.approx(alone[0]) and together[1][r] == pytest.approx(alone[1])


@pytest.mark.slow
def test_intervals_cover_by_simulation():
    rng, theta, hits, trials = np.random.default_rng(0), np.array([0.6, 0.0, -0.6]), [], 300
    for trial in range(trials):
        matrix = draw(rng, theta, 0.8, 120)
        made: Strengths = strengths(matrix, seed=trial, resamples=300)
        counted = wald(matrix.names, *matrix.counts())
        hits.append([[i.low <= t <= i.high for i, t in zip(m.strength, theta, strict=True)] for m in (made, counted)])
    bootstrap, independent = np.mean(hits, axis=(0, 2))
    assert 0.93 <= bootstrap <= 0.97 and 0.93 <= independent <= 0.97


def test_the_bootstrap_sees_that_verdicts_on_one_prompt_are_dependent():
    """If the same prompts decide every pair, Wald, which counts each verdict as news, is too sure."""
    rng = np.random.default_rng(1)
    easy = rng.random(200) < 0.6  # on these everybody beats c, on the others c wins
    outcome = np.stack([rng.integers(0, 2, 200).astype(float), easy, easy])
    matrix = WinMatrix(("a", "b", "c"), outcome, np.zeros(outcome.shape, dtype=bool))
    honest, sure = strengths(matrix, seed=0), wald(matrix.names, *matrix.counts())
    assert honest.strength[2].high - honest.strength[2].low > 1.2 * (sure.strength[2].high - sure.strength[2].low)


def test_seeds_are_pooled_and_widen_the_interval_by_what_they_differ():
    rng = np.random.default_rng(0)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]

    def seed(advantage: float) -> dict[tuple[str, str], np.ndarray]:
        return {pair: (rng.normal(advantage, 1, 200) > 0).astype(float) for pair in pairs}

    how = {"seed": 0, "resamples": 200}
    one = seed(0.5)
    alone = strengths(WinMatrix(("a", "b", "c"), np.array([one[p] for p in pairs]), np.zeros((3, 200), bool)), **how)
    assert pooled(["a", "b", "c"], [one], **how) == alone
    alike = pooled(["a", "b", "c"], [seed(0.5) for _ in range(4)], **how).strength[0]
    apart = pooled(["a", "b", "c"], [seed(level) for level in (0.0, 0.3, 0.7, 1.0)], **how).strength[0]
    assert alike.low < alike.value < alike.high
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)
    without = [{pair: own[pair] for pair in pairs[:2]} for own in (seed(0.5), seed(0.5))]  # b and c met in no seed
    assert pooled(["a", "b", "c"], without, **how).strength[0].value > 0
