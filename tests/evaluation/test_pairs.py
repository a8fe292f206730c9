"""Agreement of scores with labels, from pairs whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.data.records import Pair
from morlaif.evaluation import pairs as held_out
from morlaif.evaluation.preferences import agreement, calibration, pair_accuracy
from morlaif.evaluation.tradeoffs import change
from morlaif.preference import metrics
from morlaif.toy import judge as toy
from morlaif.toy.world import human_utility, make_world

NAN = math.nan


def test_agreement_by_hand():
    gap = [1.0, 1.0, -2.0, 0.0, 3.0, 3.0]
    label = [0.9, 0.2, 0.1, 0.7, 0.5, NAN]
    expected = [1, 0, 1, 0.5, NAN, NAN]
    np.testing.assert_array_equal(agreement(gap, label), expected)
    assert pair_accuracy(gap, label).as_dict() | {"low": 0, "high": 0} == {"value": 0.625, "low": 0, "high": 0, "n": 4}


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=20))
def test_swapping_the_responses_changes_nothing(rows):
    gap, label = np.array(rows).T
    assert np.array_equal(agreement(gap, label), agreement(-gap, (0.5 - label) + 0.5), equal_nan=True)


def test_calibration_of_the_true_model_is_small_and_of_an_overconfident_one_is_not():
    rng = np.random.default_rng(0)
    gap = rng.normal(0, 2, 40_000)
    label = (rng.random(40_000) < 1 / (1 + np.exp(-gap))).astype(float)
    assert calibration(gap, label).ece < 0.01 < 0.1 < calibration(5 * gap, label).ece
    assert calibration(gap, label).brier < calibration(5 * gap, label).brier
    assert calibration([1.0], [np.nan]) is None


def test_a_soft_label_is_an_outcome_as_it_is():
    """Beliefs of .7 are calibrated where labels are .7, and not where each of them is rounded to 1."""
    gap, soft = np.full(10, np.log(0.7 / 0.3)), np.full(10, 0.7)
    assert calibration(gap, soft).ece == pytest.approx(0, abs=1e-12) and calibration(gap, soft).brier < 1e-12
    assert calibration(gap, np.ones(10)).ece == pytest.approx(0.3)
    votes = np.array([1.0] * 7 + [0.0] * 3)
    assert calibration(gap, votes).ece == pytest.approx(0, abs=1e-12)


def test_the_report_of_a_preference_model_and_the_evaluation_measure_alike():
    rng = np.random.default_rng(1)
    scores, label = rng.normal(size=(200, 2)), rng.random(200).round(1)
    report = metrics.held_out(scores, np.ones((200, 2)), label, 1.0)
    found = calibration(scores[:, 0] - scores[:, 1], label)
    assert (report["brier"], report["ece"]) == (found.brier, found.ece)
    assert report["accuracy"] == pair_accuracy(scores[:, 0] - scores[:, 1], label).as_dict()


def test_change_is_in_deviations_of_what_was_before():
    before = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    moved = change(before, before + np.array([1.0, 3.0]), seed=0, resamples=100, confidence=0.9)
    assert moved[0].value == pytest.approx(1 / before[:, 0].std())
    assert (moved[1].value, moved[1].n) == (3.0, 3), "a constant column keeps its unit"


@pytest.fixture(scope="module")
def world():
    rows = make_world(3, sft=0, train=0, eval=60)["eval"]
    return [
        Pair.of(r.messages, r.chosen, r.rejected, 1.0) if i % 2 else Pair.of(r.messages, r.rejected, r.chosen, 0.0)
        for i, r in enumerate(rows)
    ]


def perfect(names):
    return lambda prompts, texts: np.array(
        [[toy.score(name, m, text) for name in names] for m, text in zip(prompts, texts, strict=True)]
    )


def test_perfect_models_agree_with_the_truth_and_the_ceiling_is_theirs(world):
    names = ("detail", "empathy")
    truth = {name: (name,) for name in names}
    scored = held_out.score_pairs(world, names, perfect(names), np.full((60, 2), 0.5), truth)
    accuracy = held_out.truth_accuracy(scored, 0.95)
    assert {name: i.value for name, i in accuracy.items()} == {"detail": 1.0, "empathy": 1.0}
    ties = sum(toy.score("detail", p.messages, p.first) == toy.score("detail", p.messages, p.second) for p in world)
    assert accuracy["detail"].n == 60 - ties > 0

    objective = {"multi": lambda scores: scores.sum(1), "wrong": lambda scores: -scores.sum(1)}
    result = held_out.objective_accuracy(objective, held_out.standards(scored, scored), 0.95)
    assert result["multi"] == result["ceiling"]
    want = [human_utility(p.messages, p.first) - human_utility(p.messages, p.second) for p in world]
    assert np.allclose(scored.utility_gap, want)
    people = held_out.accuracies(lambda pairs: pairs.utility_gap, held_out.standards(scored, scored), 0.95)
    assert people["truth"].value == 1 > result["multi"]["truth"].value > 0.5, "two principles are not all of it"
    assert result["wrong"]["truth"].value == pytest.approx(1 - result["multi"]["truth"].value)
    assert result["multi"]["human"].value + result["wrong"]["human"].value == pytest.approx(1)


def test_correlations_keep_signs_and_leave_out_what_was_not_judged(world):
    names = ("a", "b", "single")
    base = np.random.default_rng(0).normal(size=60)
    labels = np.stack([base, -base, np.full(60, NAN)], axis=1)
    queue = [np.stack([base, -base, base], axis=1), np.zeros((60, 3))]
    scored = held_out.score_pairs(world, names, lambda *_: queue.pop(0), labels, None, whole=("single",))
    result = held_out.correlations(scored)
    assert result.labels[0] == [1.0, -1.0, None] and result.scores[1] == [-1.0, 1.0, -1.0]
    assert result.truth is None and held_out.truth_accuracy(scored, 0.95) == {}
    kinds = held_out.standards(scored, scored)
    accuracy = held_out.objective_accuracy({"multi": lambda s: s[:, 0]}, kinds, 0.95)
    assert set(accuracy) == {"multi"} and set(accuracy["multi"]) == {"human", "label"}
