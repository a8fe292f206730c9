"""Runs that differ by seed alone are one cell, and what a comparison says of cells covers their seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from morlaif.evaluation.matrix import WinMatrix
from morlaif.evaluation.results import Estimate
from morlaif.report.comparison.aggregated import ONE_SEED, Judgements, aggregated
from morlaif.report.comparison.cells import cells
from morlaif.report.comparison.data import ComparedRuns, load
from morlaif.statistics import Resampling
from morlaif.variance import crossed

HOW = Resampling(seed=0, resamples=100, confidence=0.95)
PROMPTS = 60


@pytest.fixture(scope="module")
def loaded(runs):
    """Two scalarizers by three seeds of PPO; the arm with the single model has one policy in all."""
    made, inputs = runs(6)
    for number, run in enumerate(made):
        scalarizer, seed = divmod(number, 3)
        run["config"] |= {"scalarizer.name": ["linear", "max_min"][scalarizer], "seed": 0, "ppo.seed": seed}
    return load(made, inputs)


def judged(data: ComparedRuns, level: dict[str, float]) -> Judgements:
    """Each policy of `level`, by its key, beats each other as often as its level is above the other's."""
    rng, keys = np.random.default_rng(0), [policy.key for policy in data.policies]
    prompt = rng.normal(0, 0.5, PROMPTS)
    matrix = WinMatrix(tuple(keys), np.empty((len(keys) * (len(keys) - 1) // 2, PROMPTS)), np.empty((0, 0), dtype=bool))
    won = [
        (level[keys[i]] - level[keys[j]] + prompt + rng.normal(size=PROMPTS) > 0).astype(float) for i, j in matrix.pairs
    ]
    return Judgements([replace(matrix, outcome=np.array(won), flip=np.zeros((len(won), PROMPTS), dtype=bool))])


@pytest.mark.slow
def test_policies_that_differ_by_seed_alone_are_one_cell(loaded):
    found = cells(ComparedRuns(loaded))
    assert [(cell.label, cell.seeds, len(cell.policies)) for cell in found] == [
        ("linear", 3, 3), ("max-min", 3, 3), ("single PM", 1, 3), ("SFT", 1, 3),
    ]  # fmt: skip
    assert found[0].setting == {"scalarizer.name": "linear"} and list(found[0].policies) == [
        "ppo seed 0", "ppo seed 1", "ppo seed 2",
    ]  # fmt: skip


def test_a_rate_of_cells_is_paired_by_seed_and_crossed_with_prompts(loaded):
    data = ComparedRuns(loaded)
    level = {f"ppo/a{k}": [2.2, 2.0, 1.8, 0.1, 0.0, -0.1][k] for k in range(6)} | {"ppo/b": 0.2, "sft/5f7": 0.0}
    verdicts = judged(data, level)
    found = aggregated(data, verdicts, HOW, {"ppo/a0": 10.0, "ppo/a1": 20.0, "ppo/a2": 30.0})
    rate = found.rate("ppo/a0", "ppo/a3")
    assert rate is not None and rate.seeds == 3 and rate.paired and rate.method == "seeds and prompts"
    outcome = np.array([verdicts.matrices[0].between(f"ppo/a{k}", f"ppo/a{k + 3}") for k in range(3)])
    expected = crossed(outcome, share=True)
    assert (rate.value, rate.low) == pytest.approx((outcome.mean(), expected.interval().low))
    assert rate.p_value == pytest.approx(expected.p_value(0.5)) and rate.adjusted is not None
    assert rate.adjusted >= (rate.p_value or 0) and rate.verdict == "better"
    assert rate.shares is not None and sum(rate.shares.values()) == pytest.approx(1)
    other = found.rate("ppo/a3", "ppo/a0")
    assert other is not None and other.verdict == "worse" and other.low == pytest.approx(1 - (rate.high or 0))
    first = found.standings[0]
    assert (first.cell, first.best) == ("ppo/a0", 1) and first.strength is not None
    alike = found.rate("ppo/b", "sft/5f7")
    assert alike is not None and alike.verdict == "one seed" and alike.method == "prompts"
    seconds = found.measure("ppo/a0", "seconds")
    assert seconds is not None and seconds.value == 20 and seconds.method == "seeds"
    assert (seconds.low, seconds.high) == pytest.approx((0, 20 + 4.3027 * 10 / 3**0.5), abs=1e-3)  # never below zero


def test_one_seed_gives_no_verdict_in_words(loaded):
    data = ComparedRuns(loaded[:1])
    found = aggregated(data, judged(data, {"ppo/a0": 9.0, "ppo/b": 0.0, "sft/5f7": 0.0}), HOW, {})
    assert {rate.verdict for rate in found.rates} == {"one seed"} and found.note == ONE_SEED


def test_without_a_judge_the_runs_own_rates_are_taken_over_seeds(loaded):
    data = ComparedRuns(loaded)
    known = {(f"ppo/a{k}", "sft/5f7"): Estimate(0.6 + k / 100, 0.5, 0.7, 60) for k in range(3)}
    found = aggregated(data, Judgements(known=known), HOW, {})
    (rate,) = found.rates
    assert rate.value == pytest.approx(0.61) and (rate.seeds, rate.method, rate.shares) == (3, "seeds", None)
    known = {("ppo/b", "sft/5f7"): Estimate(0.6, 0.5, 0.7, 60)}
    (rate,) = aggregated(data, Judgements(known=known), HOW, {}).rates
    assert (rate.low, rate.high) == pytest.approx((0.5, 0.7))
    assert (rate.method, rate.verdict) == ("prompts", "one seed")


def test_arms_that_share_no_seed_are_compared_across(loaded):
    runs = [loaded[0], loaded[1], replace(loaded[5], config={**loaded[5].config, "ppo.seed": 7})]
    data = ComparedRuns(runs)
    verdicts = judged(data, {"ppo/a0": 1.0, "ppo/a1": 1.0, "ppo/a5": 0.0, "ppo/b": 0.0, "sft/5f7": 0.0})
    rate = aggregated(data, verdicts, HOW, {}).rate("ppo/a0", "ppo/a5")
    assert rate is not None and not rate.paired and rate.verdict == "one seed"


def test_seeds_of_two_sources_are_counted_by_source(loaded):
    """Three seeds of the preference models by two of PPO: six policies, but no six independent seeds."""
    runs = [
        replace(run, config={**run.config, "scalarizer.name": "linear", "pm.seed": k // 2, "ppo.seed": k % 2})
        for k, run in enumerate(loaded)
    ]
    data = ComparedRuns(runs)
    (cell, *_) = cells(data)
    assert list(cell.policies)[:2] == ["ppo seed 0 · pm seed 0", "ppo seed 0 · pm seed 1"] and cell.seeds == 6
    level = {f"ppo/a{k}": [0.9, 0.9, 0.5, 0.5, 0.1, 0.1][k] for k in range(6)} | {"ppo/b": 0.0, "sft/5f7": 0.0}
    verdicts = judged(data, level)
    rate = aggregated(data, verdicts, HOW, {}).rate(cell.key, "sft/5f7")
    outcome = np.array([verdicts.matrices[0].between(f"ppo/a{k}", "sft/5f7") for k in range(6)])
    names = [(f"pm seed {k // 2}", f"ppo seed {k % 2}") for k in range(6)]
    known, naive = crossed(outcome, seeds=names, share=True), crossed(outcome, share=True)
    assert rate is not None and rate.low == pytest.approx(known.interval().low)
    assert known.half_width(0.95) > naive.half_width(0.95)
