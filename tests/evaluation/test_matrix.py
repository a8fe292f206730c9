"""The win matrix from verdicts known in advance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from morlaif.evaluation.judges import Judgement, ScoreJudge
from morlaif.evaluation.matrix import WinMatrix, win_matrix
from morlaif.statistics import wilson, win_rate

ASK = [{"role": "user", "content": "Which one is better?"}]


class Scripted:
    """Says what `verdicts[first, second]` holds."""

    name, cost = "scripted", {}

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def compare(self, prompts, first, second):
        forward, backward, valid = self.verdicts[first[0], second[0]]
        return Judgement(np.array(forward), np.array(backward), np.array(valid, dtype=bool))


@pytest.fixture
def matrix():
    verdicts = {  #        win  flip  loss  tie  invalid
        ("a", "b"): ([0.9, 0.9, 0.1, 0.5, 0.9], [0.8, 0.1, 0.2, 0.5, 0.9], [1, 1, 1, 1, 0]),
        ("a", "c"): ([0.9] * 5, [0.9] * 5, [1] * 5),
        ("b", "c"): ([0.1] * 5, [0.5, 0.1, 0.1, 0.1, 0.1], [1] * 5),
    }
    return win_matrix({name: [name] * 5 for name in "abc"}, [ASK] * 5, Scripted(verdicts))


def test_counts_and_shares_by_hand(matrix):
    wins, ties = matrix.counts()
    assert wins.tolist() == [[0, 1, 5], [1, 0, 0], [0, 5, 0]]
    assert ties.tolist() == [[0, 2, 0], [2, 0, 0], [0, 0, 0]]
    told = matrix.as_dict(seed=0, resamples=200)
    assert told["rate"][0][1]["value"] == 0.5 and told["rate"][1][2]["value"] == pytest.approx(0.05)
    assert told["win"][0] == [None, 0.25, 1.0] and told["loss"][0] == [None, 0.25, 0.0]
    assert told["tie"][0][1] == told["tie"][1][0] == 0.5
    assert told["flip_rate"][0][1] == told["flip_rate"][1][0] == 0.25 and told["invalid"][1][0] == 1
    assert told["rate"][0][0] is None and told["prompts"] == 5


def test_a_pair_seen_from_the_other_side_is_mirrored(matrix):
    rates = matrix.rates(seed=0, resamples=300)
    for i, j in itertools.permutations(range(3), 2):
        assert rates[i][j].value + rates[j][i].value == pytest.approx(1)
        assert rates[i][j].low == pytest.approx(1 - rates[j][i].high)
        assert rates[i][j].low <= rates[i][j].value <= rates[i][j].high
    assert rates[0][2].low == pytest.approx(wilson(1, 5).low), "a clean sweep is not certainty"


def test_an_entry_is_the_win_rate_of_its_pair():
    rng = np.random.default_rng(0)
    texts = {name: [str(x) for x in rng.normal(size=80)] for name in ("x", "y", "z")}
    judge = ScoreJudge(lambda prompts, answers: np.array([float(text) for text in answers]))
    matrix = win_matrix(texts, [ASK] * 80, judge)
    rates = matrix.rates(seed=7, resamples=500)
    for i, j in matrix.pairs:
        verdict = judge.compare([ASK] * 80, *(texts[matrix.names[k]] for k in (i, j)))
        alone = win_rate(verdict.forward, verdict.backward, seed=7, resamples=500).rate
        mine = rates[i][j]
        assert (mine.value, mine.low, mine.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_pair_without_any_verdict_says_nothing():
    nothing = WinMatrix(("a", "b"), np.full((1, 4), np.nan), np.zeros((1, 4), dtype=bool))
    told = nothing.as_dict(seed=0, resamples=100)
    assert told["rate"][0][1]["value"] is None and told["win"][0][1] is None and told["invalid"][0][1] == 4


def test_answers_must_be_to_the_same_prompts():
    with pytest.raises(ValueError, match="'b' has 1 answers to 2 prompts"):
        win_matrix({"a": ["x", "y"], "b": ["x"]}, [ASK] * 2, Scripted({}))
