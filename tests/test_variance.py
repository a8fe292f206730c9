"""Means over seeds and prompts: exact where a hand can compute them, and their level by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from morlaif.variance import (
    NO_MEAN,
    components,
    cross_pairs,
    crossed,
    holm,
    mean_squares,
    over_prompts,
    over_seeds,
    rank_ranges,
)

# Three seeds on four prompts: seed means 1, 2, 3 and prompt means 0, 1, 3, 4, with a rest of ±½.
TABLE = np.array([[-1.5, 0.5, 2.5, 2.5], [0.5, 0.5, 2.5, 4.5], [1.0, 2.0, 4.0, 5.0]])


def test_mean_squares_are_those_of_the_sums_written_out() -> None:
    seeds, prompts = TABLE.shape
    middle = TABLE.mean()
    seed = prompts * sum((row.mean() - middle) ** 2 for row in TABLE) / (seeds - 1)
    prompt = seeds * sum((column.mean() - middle) ** 2 for column in TABLE.T) / (prompts - 1)
    rest = sum(
        (TABLE[s, p] - TABLE[s].mean() - TABLE[:, p].mean() + middle) ** 2
        for s in range(seeds) for p in range(prompts)
    ) / ((seeds - 1) * (prompts - 1))  # fmt: skip
    assert mean_squares(TABLE) == pytest.approx((seed, prompt, rest))
    found = components(TABLE)
    assert found is not None
    assert (found.seed, found.prompt, found.rest) == pytest.approx(
        ((seed - rest) / prompts, (prompt - rest) / seeds, rest)
    )
    assert sum(found.shares.values()) == pytest.approx(1)


def test_variance_is_found_where_it_was_put() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        components(rng.normal(0, 0.3, (10, 1)) + rng.normal(0, 0.6, (1, 200)) + rng.normal(0, 0.5, (10, 200)))
        for _ in range(60)
    ]
    mean = np.mean([(one.seed, one.prompt, one.rest) for one in drawn if one], axis=0)
    assert mean == pytest.approx([0.09, 0.36, 0.25], rel=0.15)
    additive = components(np.arange(3.0)[:, None] + np.arange(5.0))
    assert additive is not None and additive.rest == pytest.approx(0)
    assert components(TABLE[:1]) is None


def test_a_crossed_interval_adds_seeds_and_prompts_in_quadrature() -> None:
    mean = crossed(TABLE)
    seed, prompt, rest = mean_squares(TABLE)
    half = math.sqrt((stats.t.ppf(0.975, 2) ** 2 * seed + stats.t.ppf(0.975, 3) ** 2 * (prompt - rest)) / TABLE.size)
    assert mean.interval().high == pytest.approx(TABLE.mean() + half)
    assert (mean.seeds, mean.prompts, mean.method) == (3, 4, "seeds and prompts")


def test_without_an_effect_of_prompts_it_is_the_t_interval_of_the_seeds() -> None:
    x = np.tile(np.arange(5.0)[:, None], 40)
    low, high = stats.t.interval(0.9, 4, loc=2, scale=stats.sem(np.arange(5)))
    assert (crossed(x).interval(0.9).low, crossed(x).interval(0.9).high) == pytest.approx((low, high))
    assert over_seeds(x[:, 0]).half_width(0.9) == pytest.approx(crossed(x).half_width(0.9))
    assert over_seeds(x[:, 0]).p_value(0.5) == pytest.approx(stats.ttest_1samp(np.arange(5), 0.5).pvalue)


def test_one_seed_covers_prompts_alone_and_nothing_covers_nothing() -> None:
    one = crossed([[0, 1, 1, 0.5, np.nan]], share=True)
    assert (one.method, one.seeds, one.prompts) == ("prompts", 1, 4)
    assert one == over_prompts([0, 1, 1, 0.5], share=True)
    assert over_seeds([0.7]).method == "none" and math.isnan(over_seeds([0.7]).interval().low)
    assert crossed(np.full((2, 3), np.nan)) == NO_MEAN and math.isnan(NO_MEAN.interval().value)


def test_a_p_value_is_where_the_interval_ends() -> None:
    for mean in (crossed(TABLE), over_prompts(TABLE[0]), cross_pairs(TABLE.reshape(3, 2, 2))):
        p = mean.p_value(0.5)
        found = mean.interval(1 - p)
        assert min(abs(found.low - 0.5), abs(found.high - 0.5)) == pytest.approx(0, abs=1e-8)
    never = crossed(np.ones((3, 50)), share=True)
    assert never.interval().low == pytest.approx(0.9286, abs=1e-4)  # Wilson's: no spread is no certainty
    assert 0 < never.p_value(0.5) < 1e-9 and never.p_value(1.0) == 1


def test_an_invalid_verdict_leaves_the_seeds_own_mean() -> None:
    x = np.array([[1, 0, 1, np.nan], [0, 0, 1, 1.0]])
    assert crossed(x).value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_ranks_are_ranges() -> None:
    # the first beats the last, nothing else is clear
    assert rank_ranges([[False, False, True], [False] * 3, [False] * 3]) == [(1, 2), (1, 3), (2, 3)]


OF_SEED, OF_PROMPT = 0.28, 0.5  # of a latent advantage with noise of unit size: rates of seeds deviate by about .1


def outcomes(rng: np.random.Generator, seeds: int, prompts: int, advantage: float = 0.0) -> np.ndarray:
    """(seeds, prompts): wins and losses of an arm with an advantage over another."""
    of_seed, of_prompt = rng.normal(0, OF_SEED, (seeds, 1)), rng.normal(0, OF_PROMPT, (1, prompts))
    return (advantage + of_seed + of_prompt + rng.normal(0, 1, (seeds, prompts)) > 0).astype(float)


def holds(x: np.ndarray, rate: float) -> bool:
    found = crossed(x, share=True).interval()
    return found.low <= rate <= found.high


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_two_arms_alike_are_rarely_called_different(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    called = [not holds(outcomes(rng, seeds, 200), 0.5) for _ in range(600)]
    assert 0.03 <= np.mean(called) <= 0.07


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_holds_the_rate_of_all_seeds_and_prompts(seeds: int) -> None:
    rng = np.random.default_rng(10 + seeds)
    rate = float(stats.norm.cdf(0.8 / math.sqrt(1 + OF_SEED**2 + OF_PROMPT**2)))
    held = [holds(outcomes(rng, seeds, 200, 0.8), rate) for _ in range(600)]
    assert 0.93 <= np.mean(held) <= 0.97


def test_prompts_alone_call_arms_different_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([not holds(outcomes(rng, 1, 200), 0.5) for _ in range(200)]) > 0.3


def test_seeds_of_two_sources_are_not_independent_rows() -> None:
    # means of 3 seeds of the models by 2 of PPO: the models' seeds make all the difference
    means = np.repeat([0.4, 0.5, 0.6], 2)
    names = [(f"pm {i}", f"ppo {j}") for i in range(3) for j in range(2)]
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)  # three seeds, not six
    assert over_seeds(means, seeds=names).half_width(0.95) == pytest.approx(half)
    assert over_seeds(means).half_width(0.95) < half
    each = [(f"pm {k}", f"ppo {k}") for k in range(6)]  # no two rows share a seed
    assert over_seeds(means, seeds=each).half_width(0.95) == over_seeds(means).half_width(0.95)
