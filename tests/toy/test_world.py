from __future__ import annotations

import numpy as np
import pytest

from morlaif.data.records import prompt_id
from morlaif.toy.judge import PRINCIPLES, truth
from morlaif.toy.world import HUMAN_WEIGHTS, UTILITY_VERSION, human_utility, make_world


def prompts(examples) -> set[str]:
    return {prompt_id(example.messages) for example in examples}


def test_the_seed_decides():
    assert make_world(1, 20, 20, 20) == make_world(1, 20, 20, 20)
    assert make_world(1, 20, 20, 20) != make_world(2, 20, 20, 20)


def test_more_of_one_split_only_appends():
    small, large = make_world(5, 10, 10, 10), make_world(5, 30, 10, 40)
    assert large["sft"][:10] == small["sft"]
    assert large["train"] == small["train"]
    assert large["eval"][:10] == small["eval"]


def test_splits_have_their_sizes_and_columns():
    world = make_world(0, sft=30, train=20, eval=10)
    assert {name: len(examples) for name, examples in world.items()} == {"sft": 30, "train": 20, "eval": 10}
    assert all(e.demonstration and e.chosen is None and e.rejected is None for e in world["sft"])
    for example in world["train"] + world["eval"]:
        assert example.chosen != example.rejected
        assert example.demonstration == example.chosen


@pytest.mark.slow
def test_eval_prompts_occur_nowhere_else():
    world = make_world(3, sft=3000, train=1000, eval=600)
    assert not prompts(world["eval"]) & (prompts(world["sft"]) | prompts(world["train"]))


@pytest.mark.slow
def test_humans_follow_their_utility_as_bradley_terry_says():
    pairs = make_world(11, sft=1, train=3000, eval=1)["train"]
    margin = np.array([human_utility(e.messages, e.chosen) - human_utility(e.messages, e.rejected) for e in pairs])
    # Of pairs that are m apart, a share σ(m) has the better one chosen.
    for low, high in ((0.25, 1.0), (1.0, 2.0), (2.0, 4.0)):
        band = margin[(np.abs(margin) >= low) & (np.abs(margin) < high)]
        expected = (1 / (1 + np.exp(-np.abs(band)))).mean()
        assert abs((band > 0).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(band))


def test_utility_is_the_weighted_sum_of_the_truth():
    example = make_world(0, 1, 1, 1)["train"][0]
    scores = truth(example.messages, example.chosen)
    assert tuple(HUMAN_WEIGHTS) == PRINCIPLES
    assert human_utility(example.messages, example.chosen) == sum(HUMAN_WEIGHTS[p] * scores[p] for p in PRINCIPLES)


@pytest.mark.slow
def test_the_utility_has_the_version_that_it_is_known_by():
    """Where this fails because a response has become worth more or less, raise UTILITY_VERSION: results of two
    versions are no longer compared."""
    rows = make_world(11, sft=0, train=300, eval=0)["train"]
    worth = [human_utility(row.messages, text) for row in rows for text in (row.chosen, row.rejected)]
    assert (UTILITY_VERSION, round(sum(worth), 6), round(sum(x * x for x in worth), 6)) == (1, 66.0, 3230.74)
