"""The best of k out of n samples against every subset of them, counted one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from morlaif.online.best_of import chosen, expected, kl_bound, order_weights, sizes
from morlaif.online.curves import OWN, curves
from morlaif.scalarize.functions import linear, max_min
from morlaif.scalarize.objective import Objective


def by_subsets(scores: list[float], worth: list[float], k: int) -> float:
    """The mean over all subsets of size k of the worth of the best; of equally good ones, the mean of theirs."""
    found = []
    for subset in combinations(range(len(scores)), k):
        best = max(scores[i] for i in subset)
        found.append(np.mean([worth[i] for i in subset if scores[i] == best]))
    return float(np.mean(found))


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_mean_over_all_subsets(ties):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (5, 7)).astype(float) if ties else rng.normal(size=(5, 7))
    worth = rng.normal(size=(5, 7))
    for k in range(1, 8):
        brute = [by_subsets(list(own), list(gain), k) for own, gain in zip(scores, worth, strict=True)]
        np.testing.assert_allclose(expected(scores, k, worth), brute, atol=1e-12)
        np.testing.assert_allclose(chosen(scores, k).sum(axis=1), 1)
    np.testing.assert_allclose(expected(scores, 7), scores.max(axis=1))
    np.testing.assert_allclose(expected(scores, 1), scores.mean(axis=1))


@pytest.mark.slow
def test_it_is_unbiased_for_fresh_samples():
    """From 6 samples of a uniform variable: the best of 4 has the mean 4/5."""
    drawn = np.random.default_rng(1).uniform(size=(20_000, 6))
    assert expected(drawn, 4).mean() == pytest.approx(4 / 5, abs=0.005)


@pytest.mark.slow
def test_sizes_weights_and_the_bound():
    assert sizes(1) == [1] and sizes(16) == [1, 2, 4, 8, 16] and sizes(12) == [1, 2, 4, 8, 12]
    assert order_weights(4096, 2048).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="k = 5"):
        order_weights(4, 5)
    assert kl_bound(1) == 0 and kl_bound(4) == pytest.approx(np.log(4) - 0.75)


def test_curves_of_two_objectives_over_the_same_samples():
    """Two principles pull apart, so the sum leaves one of them behind where the minimum does not."""
    rng = np.random.default_rng(2)
    first = 3 * rng.normal(size=(40, 8))
    scores = np.stack([first, rng.normal(size=(40, 8)) - 0.5 * first], axis=2)
    one = torch.ones(2)
    own = Objective(("a", "b"), 0 * one, one, one, one, linear)
    other = Objective(("a", "b"), 0 * one, one, one, one, max_min)
    worth = scores.min(axis=2)
    found = curves(scores, own, {"max_min": other}, worth, seed=0)
    assert (found["n"], found["prompts"]) == (8, 40)
    rows = found["objectives"]
    assert [row["n"] for row in rows[OWN]] == [1, 2, 4, 8]
    assert rows[OWN][0]["objective"]["value"] == pytest.approx(0)
    assert rows[OWN][-1]["objective"]["value"] == pytest.approx(
        scores.sum(2).max(1).mean() - scores.sum(2).mean(), abs=1e-5
    )
    assert rows["max_min"][-1]["utility"]["value"] == pytest.approx(worth.max(1).mean() - worth.mean(), abs=1e-5)
    assert rows["max_min"][-1]["lowest"] > rows[OWN][-1]["lowest"]
