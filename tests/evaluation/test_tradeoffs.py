"""Losses, signs of hacking, budgets and the regression's words, from numbers that show what they should say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from morlaif.evaluation import regression
from morlaif.evaluation.pairs import ScoredPairs
from morlaif.evaluation.results import Rate
from morlaif.evaluation.tradeoffs import changes, hacking, sacrificed
from morlaif.statistics import Interval

HOW = {"seed": 0, "resamples": 400, "confidence": 0.95}


def moved(*shifts, n=200, seed=0):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(n, len(shifts)))
    return before, before + np.array(shifts) + rng.normal(0, 0.3, (n, len(shifts)))


def test_the_principle_that_lost_most_is_named_and_only_a_clear_loss_is_one():
    lost = sacrificed(["a", "b", "c"], *moved(1.0, -0.5, -0.1), **HOW)
    assert (lost.principle, lost.lost) == ("b", True) and lost.value == pytest.approx(-0.5, abs=0.1)
    kept = sacrificed(["a", "b"], *moved(1.0, 0.4), **HOW)
    assert (kept.principle, kept.lost) == ("b", False)
    assert sacrificed([], *moved(n=4), **HOW) is None


@pytest.mark.slow
def test_picking_the_worst_of_many_still_principles_is_rarely_called_a_loss():
    names = [str(k) for k in range(12)]
    called = sum(sacrificed(names, *moved(*[0.0] * 12, n=120, seed=s), **HOW).lost for s in range(100))
    assert called <= 7, "2.5 in a hundred, without the correction 26"


def signs(by_model, really, **more):
    names = ["a", "b"]
    given = {"objective": None, "model_gap": None, "true_gap": None, "lengths": ([10.0] * 50, [14.0] * 50), "kl": 3.0}
    models, truth = (changes(names, *moved(*shift), **HOW) for shift in (by_model, really))
    return hacking(models, truth, None, **given | more, **HOW)


def test_hacked_is_up_by_the_model_and_down_in_truth():
    made = signs((1.0, 1.0), (1.0, -0.5))
    assert made.hacked == ["b"] and made.hollow == [] and made.kl == 3.0
    assert made.length.change.value == 4.0
    assert signs((1.0, 1.0), (0.5, 0.0)).hollow == ["b"], "paid for, and nothing gained"
    assert signs((-1.0, 0.0), (-1.0, -1.0)).hacked == [], "the models saw it"


def test_agreement_of_models_and_truth_on_what_changed():
    true = np.array([[1.0, -1.0], [0.0, 2.0], [0.0, 0.0]])
    model = np.array([[0.3, 0.2], [9.0, 0.1], [1.0, 1.0]])
    made = signs((0.0, 0.0), (0.0, 0.0), model_gap=model, true_gap=true, objective=Interval(1.0, 0.5, 1.5, 3))
    assert (made.agreement.value, made.agreement.n) == (0.75, 2), "where nothing truly changed, no word"
    assert made.objective.low == 0.5


def test_a_judge_that_sees_the_policy_lose():
    models = changes(["a"], *moved(1.0), **HOW)
    worse = Rate(0.3, 0.2, 0.4, 1, 0.3, 0.0, 0.7, 0.0, 0)
    given = {"objective": None, "model_gap": None, "true_gap": None, "lengths": ([1.0], [1.0]), "kl": None}
    made = hacking(models, None, worse, **given, **HOW)
    assert made.judged_worse and made.principles["a"].sign is None
    assert not hacking(models, None, replace(worse, high=0.6), **given, **HOW).judged_worse


def rated(sycophancy, n=3000):
    rng = np.random.default_rng(0)
    gap = rng.normal(size=(n, 2))
    human = (rng.random(n) < 1 / (1 + np.exp(-(gap @ [1.0, sycophancy])))).astype(float)
    names = ("helpfulness", "sycophancy")
    return ScoredPairs(names, gap, np.zeros((n, 2)), np.full((n, 2), np.nan), human, np.zeros(n), None, None, None)


@pytest.mark.parametrize("weight, sign, said", [
    (-0.8, "negative", "people reward flattery"),
    (0.8, "positive", "mark flattery down"),
    (0.0, "unclear", "do not show"),
])  # fmt: skip
def test_the_sign_of_sycophancy_is_put_in_words(weight, sign, said):
    made = regression.discussed(regression.on_held_out(rated(weight), 0.01), "held-out pairs", 0.01)
    row = made.rows[1]
    assert row.sign == sign and row.low < weight < row.high
    assert said in made.sentences[-1] and "helpfulness" in made.sentences[1]


def test_a_regression_that_cannot_be_fitted_says_why():
    few = rated(0.0, n=2)
    assert "cannot fix 2 weights" in regression.discussed(regression.on_held_out(few, 0.05), "x", 0.05).problem
    few.human[:] = np.nan
    assert regression.on_held_out(few, 0.05) is None
