"""What seeds say of a claim: exact where a hand can compute it, error and power by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from morlaif.claims.decide import (
    Evidence,
    Threshold,
    all_of,
    evidence,
    p_value,
    power,
    seeds_needed,
    verdict,
)
from morlaif.statistics import Interval

ABOVE, BELOW = Threshold("greater", 0.5), Threshold("less", 0.5)
ALIKE = Threshold("equivalent", 0.5, 0.1)
SEEDS = [0.6, 0.55, 0.62, 0.58, 0.51]


def found(mean: float, deviation: float, n: int = 5, floor: float = 0.0) -> Evidence:
    return Evidence([mean] * n, Interval(mean, math.nan, math.nan, n), deviation, floor, 1.0, 1.0)


def test_a_direction_has_the_p_of_students_t():
    theirs = stats.ttest_1samp(SEEDS, 0.5, alternative="greater")
    ours = evidence(SEEDS, ABOVE)
    assert ours.p_for == pytest.approx(theirs.pvalue) and ours.p_against == pytest.approx(1 - theirs.pvalue)
    assert (ours.interval.low, ours.interval.high) == pytest.approx(
        stats.ttest_1samp(SEEDS, 0.5).confidence_interval(0.95)
    )
    turned = evidence(SEEDS, BELOW)
    assert (turned.p_for, turned.p_against) == pytest.approx((ours.p_against, ours.p_for))


def test_equivalence_is_two_one_sided_tests():
    values = [0.52, 0.45, 0.56, 0.5, 0.48]
    low = stats.ttest_1samp(values, 0.4, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 0.6, alternative="less").pvalue
    assert evidence(values, ALIKE).p_for == pytest.approx(max(low, high))
    far = evidence([0.8, 0.82, 0.79], ALIKE)
    assert far.p_against < 0.01 < far.p_for
    one_side = stats.ttest_1samp([0.8, 0.82, 0.79], 0.6, alternative="greater").pvalue
    assert far.p_against == pytest.approx(2 * one_side), "either side may be left"


@pytest.mark.parametrize("values", [[0.9], [0.9] * 5, []])
def test_without_spread_over_seeds_there_is_no_verdict(values):
    """Seeds that changed nothing are one seed."""
    none = evidence(values, ABOVE)
    assert (none.p_for, none.p_against) == (1.0, 1.0)
    assert math.isnan(power(none, ABOVE, 10, 0.05)) and seeds_needed(none, ABOVE, 0.05) is None


def test_prompts_count_where_they_are_known():
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 0.4, 30)  # hard ones and easy ones, the same for all seeds
    values = [0.6 + prompts - prompts.mean() + rng.normal(0, 0.02) + rng.normal(0, 0.1, 30) for _ in range(5)]
    with_prompts, alone = evidence(values, ABOVE), evidence([float(own.mean()) for own in values], ABOVE)
    assert with_prompts.interval.value == pytest.approx(alone.interval.value)
    assert with_prompts.p_for > alone.p_for and with_prompts.floor > 0 == alone.floor
    assert with_prompts.values == pytest.approx(alone.values)


def test_a_claim_of_parts_hangs_on_the_weakest_and_falls_with_any():
    strong, weak = evidence(SEEDS, ABOVE), evidence([0.52, 0.47, 0.55, 0.49, 0.5], ABOVE)
    p_for, p_against = all_of([strong, weak])
    assert p_for == weak.p_for and p_against == pytest.approx(min(1, 2 * weak.p_against))
    assert all_of([]) == (1.0, 1.0)


def test_verdicts():
    assert verdict(0.001, 0.999, 0.02) == "supported" and verdict(0.999, 0.001, 0.02) == "contradicted"
    assert verdict(0.001, 0.999, 0.06) == verdict(1.0, 1.0, math.nan) == "undecided"
    assert p_value(0.02, 0.98, "greater") == 0.04 and p_value(0.02, 1.0, "equivalent") == 0.02


@pytest.mark.slow
def test_the_rate_of_wrong_verdicts_is_held():
    """True means on the threshold, where a verdict either way is wrong, and on the margin."""
    rng = np.random.default_rng(1)
    wrong = {ABOVE: 0, ALIKE: 0}
    for _ in range(1000):
        for claimed, mean in ((ABOVE, 0.5), (ALIKE, 0.6)):
            p = evidence(list(rng.normal(mean, 0.05, 5)), claimed)
            adjusted = p_value(p.p_for, p.p_against, claimed.kind)
            said = verdict(p.p_for, p.p_against, adjusted)
            wrong[claimed] += said != "undecided" if claimed == ABOVE else said == "supported"
    assert all(0.03 < count / 1000 < 0.07 for count in wrong.values()), wrong


@pytest.mark.slow
@pytest.mark.parametrize(("claimed", "mean"), [(ABOVE, 0.55), (ALIKE, 0.52), (ALIKE, 0.68)])
def test_power_is_how_often_a_simulation_decides(claimed, mean):
    rng = np.random.default_rng(2)
    alpha, decided = 0.05, 0
    for _ in range(600):
        p = evidence(list(rng.normal(mean, 0.05, 5)), claimed)
        against = claimed is ALIKE and mean > 0.6
        decided += (p.p_against / 2 if against else p.p_for) <= alpha
    assert decided / 600 == pytest.approx(power(found(mean, 0.05), claimed, 5, alpha), abs=0.05)


def test_seeds_that_would_decide_are_the_fewest():
    needed = seeds_needed(found(0.52, 0.05), ABOVE, 0.025)
    assert needed is not None
    assert power(found(0.52, 0.05), ABOVE, needed, 0.025) >= 0.8 > power(found(0.52, 0.05), ABOVE, needed - 1, 0.025)
    assert seeds_needed(found(0.501, 0.2), ABOVE, 0.025) is None, "more than are thought of"
    assert seeds_needed(found(0.52, 0.05, floor=0.02**2), ABOVE, 0.025) is None, "seeds do not help against prompts"
