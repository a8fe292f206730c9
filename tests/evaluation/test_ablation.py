"""Fewer principles, counted by hand on perfect and on useless models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from morlaif.evaluation.ablation import Ceiling, ablation, draw_subsets
from morlaif.evaluation.objectives import for_subsets, restandardized, variants
from morlaif.evaluation.pairs import ScoredPairs, standards
from morlaif.scalarize.functions import linear, max_min
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

NAMES = ("a", "b", "c", "d")
HOW = {"subsets": 3, "seed": 0, "resamples": 200}


def objective(function=linear, weight=(1.0, 1.0, 1.0, 1.0), direction=(1.0, 1.0, 1.0, 1.0)):
    return Objective(NAMES, *(torch.tensor(x) for x in ((0.0,) * 4, (1.0,) * 4, direction, weight)), function)


@pytest.fixture
def pairs():
    """Perfect models of a known truth, labels that agree with them, and humans who want the mean of all four."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(80, 4)), rng.normal(size=(80, 4))
    labels = 1 / (1 + np.exp(second - first))
    human = (first.mean(1) > second.mean(1)).astype(float)
    utility = (first - second).mean(1)
    return ScoredPairs(NAMES, first, second, labels, human, np.zeros(80), NAMES, first, second, utility)


def test_nested_subsets_follow_the_order_and_equal_a_count_by_hand(pairs):
    made = ablation(objective(), standards(pairs, pairs), order=("c", "a", "d", "b"), **HOW)
    assert [row.names for row in made.nested] == [["c"], ["c", "a"], ["c", "a", "d"], ["c", "a", "d", "b"]]
    gap = (pairs.first - pairs.second)[:, [2, 0]].sum(1)
    expected = ((gap > 0) == (pairs.human > 0.5)).mean()
    assert made.nested[1].accuracy["human"].value == pytest.approx(expected)
    assert made.nested[-1].accuracy["human"].value == 1
    assert set(made.nested[0].accuracy) == {"human", "truth", "label"} and made.ceiling_of == "truth"


def test_random_subsets_average_over_all_when_there_are_few(pairs):
    made = ablation(objective(), standards(pairs, pairs), order=NAMES, **HOW | {"subsets": 10})
    assert [(row.count, row.subsets) for row in made.random] == [(1, 4), (2, 6), (3, 4), (4, 1)]
    gap = pairs.first - pairs.second
    right = [((gap[:, k] > 0) == (pairs.human > 0.5)).mean() for k in range(4)]
    one = made.random[0].accuracy["human"]
    assert one.value == pytest.approx(np.mean(right)) and one.low < one.value < one.high


def test_leaving_one_out_is_paired_with_the_whole(pairs):
    made = ablation(objective(), standards(pairs, pairs), order=NAMES, **HOW)
    for row in made.leave_one_out:
        assert row.change["human"].value == pytest.approx(row.accuracy["human"].value - 1)
        assert row.change["human"].high < 0, "each of four equal principles is missed"


def test_useless_models_are_at_chance_and_the_ceiling_is_not(pairs):
    noise = np.random.default_rng(1).normal(size=(2, 80, 4))
    useless = ScoredPairs(
        NAMES, *noise, pairs.labels, pairs.human, pairs.longer, NAMES, pairs.true_first, pairs.true_second
    )
    made = ablation(objective(), standards(useless, useless), order=NAMES, **HOW)
    whole = made.nested[-1]
    assert whole.accuracy["human"].low < 0.5 < whole.accuracy["human"].high
    assert whole.ceiling["human"].value > 0.95


def test_without_a_truth_the_ceiling_is_what_the_labels_say(pairs):
    labelled = ScoredPairs(NAMES, *np.zeros((2, 80, 4)), pairs.labels, pairs.human, pairs.longer, None, None, None)
    made = ablation(objective(), standards(labelled, labelled), order=NAMES, **HOW)
    assert made.ceiling_of == "labels"
    assert made.nested[-1].ceiling["human"].value > 0.9
    assert made.nested[-1].accuracy["human"].value == 0.5, "models that tie every pair"
    pairs.labels[0] = np.nan
    kinds = standards(labelled, labelled)
    assert np.isnan(Ceiling(objective(), kinds["human"])(NAMES)[0])


@pytest.mark.slow
def test_a_principle_of_weight_zero_is_no_part_of_it_and_a_turned_one_stays_turned(pairs):
    made = ablation(objective(weight=(1.0, 0.0, 1.0, 1.0)), standards(pairs, pairs), order=NAMES, **HOW)
    assert made.names == ["a", "c", "d"]
    turned = ablation(objective(direction=(-1.0, 1.0, 1.0, 1.0)), standards(pairs, pairs), order=NAMES, **HOW)
    straight = ablation(objective(), standards(pairs, pairs), order=NAMES, **HOW)
    alone = turned.nested[0].accuracy["human"].value
    assert alone == pytest.approx(1 - straight.nested[0].accuracy["human"].value)
    assert ablation(objective(weight=(1.0, 0.0, 0.0, 0.0)), standards(pairs, pairs), order=NAMES, **HOW) is None


def test_subsets_are_different_and_come_from_the_seed():
    drawn = draw_subsets(tuple("abcdefghij"), 5, 20, 0)
    assert len(set(drawn)) == 20 == len(drawn) and all(list(s) == sorted(s) for s in drawn)
    assert drawn == draw_subsets(tuple("abcdefghij"), 5, 20, 0) != draw_subsets(tuple("abcdefghij"), 5, 20, 1)


def test_true_scores_are_put_into_the_objectives_unit():
    first, second = np.array([[10.0, 0.0], [30.0, 0.0]]), np.array([[20.0, 0.0], [40.0, 0.0]])
    two = Objective(("a", "b"), *(torch.tensor(x) for x in ((5.0, 5.0), (2.0, 2.0), (1.0, 1.0), (1.0, 1.0))), linear)
    made = restandardized(two, first, second)
    assert made.mean.tolist() == [25.0, 0.0] and made.scale.tolist() == pytest.approx([125**0.5, 1.0])


def test_scalarizers_over_the_same_models():
    home = "morlaif.scalarize.functions"
    settings = {
        "max_min": ScalarizerSettings(name="max_min", function=f"{home}.max_min", params={}),
        "other": ScalarizerSettings(name="single", function=f"{home}.single", params={"principle": "z"}),
        "one": ScalarizerSettings(name="single", function=f"{home}.single", params={"principle": "b"}),
    }
    made = variants(objective(), settings)
    scores = torch.tensor([[3.0, 2.0, 1.0, 4.0]])
    assert set(made) == {"max_min", "one"}, "z is no principle of this run"
    assert (made["max_min"](scores).item(), made["one"](scores).item()) == (1.0, 2.0)
    assert for_subsets(settings["one"], NAMES)[0] == "linear"
    assert for_subsets(settings["max_min"], NAMES)[1](scores) == resolve(settings["max_min"])(scores)
    assert max_min(scores).item() == 1.0
