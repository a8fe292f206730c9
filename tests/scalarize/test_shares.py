"""Constraints in shares of what the SFT policy has: the measure by brute force, and that a constraint binds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from morlaif.errors import UserError
from morlaif.presets import preset
from morlaif.scalarize.functions import linear
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import Scalarizer, resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.scalarize.shares import bar_of, most, relative, wins

NAMES = ("detail", "toxicity")
SCORES = st.lists(st.integers(-5, 5), min_size=2, max_size=30)  # whole numbers: many ties
BARS = st.sampled_from([None, 0.1, 0.25, 0.5, 0.9])


def constrained(**params) -> Scalarizer:
    config = preset("scalarizer", "constrained")
    return resolve(ScalarizerSettings(**config | {"params": config["params"] | params}), NAMES)


def column(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- the measure ---


@pytest.mark.slow
@given(SCORES)
def test_a_share_is_the_count_of_those_that_are_beaten(sft: list[int]) -> None:
    for score in range(-7, 8):
        beaten = sum(score > other for other in sft) + sum(score == other for other in sft) / 2
        if score in sft or not min(sft) < score < max(sft):
            assert wins(column([score]), column(sft)).item() == pytest.approx(beaten / len(sft))


@given(SCORES, st.lists(st.floats(-8, 8), min_size=2, max_size=20))
def test_between_scores_the_share_rises_in_straight_lines(sft: list[int], scores: list[float]) -> None:
    own = sorted(set(sft))
    if len(own) < 2:
        return
    at = [(sum(v < u for v in sft) + sft.count(u) / 2) / len(sft) for u in own]
    want = np.interp(scores, own, at, left=0.0, right=1.0)
    assert wins(column(scores), column(sft)).tolist() == pytest.approx(want.tolist(), abs=1e-9)


@given(SCORES, BARS)
def test_the_reference_has_one_of_itself(sft: list[int], bar: float | None) -> None:
    assert relative(column(sft), column(sft), bar).mean().item() == pytest.approx(1.0)


@given(SCORES, SCORES, BARS, st.sampled_from([0.25, 3.0]), st.integers(-4, 4))
def test_neither_zero_nor_unit_of_a_score_matters(sft, scores, bar, scale, shift) -> None:
    other = relative(column(scores) * scale + shift, column(sft) * scale + shift, bar)
    torch.testing.assert_close(other, relative(column(scores), column(sft), bar))


@given(SCORES, SCORES, BARS)
def test_better_scores_never_have_less_and_nothing_exceeds_the_most(sft, scores, bar) -> None:
    found = relative(column(sorted(scores)), column(sft), bar)
    assert (found.diff() >= -1e-12).all() and found.min() >= 0
    assert found.max().item() <= most(bar) + 1e-9


@given(SCORES, st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_a_bar_is_the_lowest_score_with_so_many_at_or_under_it(sft: list[int], quantile: float) -> None:
    edge = bar_of(column(sft), quantile)
    assert edge in sft
    assert sum(v <= edge for v in sft) >= quantile * len(sft) - 1e-6
    assert sum(v < edge for v in sft) < quantile * len(sft)


# --- in an objective ---


def objective(scalarizer, sft, **change) -> Objective:
    fields = {
        "mean": sft.mean(0).float(), "scale": sft.std(0, correction=0).float(), "direction": torch.ones(2),
        "weight": torch.ones(2), "responses": len(sft), "sft_scores": sft,
    }  # fmt: skip
    return Objective(NAMES, scalarizer=scalarizer, **fields | change)


def responses(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([2.0, 0.3]) + 5


@pytest.mark.parametrize("normalizer", ["none", "frozen", "running"])
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_level_is_that_of_raw_scores_whatever_normalises_and_weighs_them(normalizer: str, direction: float) -> None:
    sft, own = responses(40), responses(12, seed=1) + 0.2
    change = {"direction": torch.tensor([1.0, direction]), "weight": torch.tensor([1.0, 2.5])}
    if normalizer == "none":
        change |= {"mean": torch.zeros(2), "scale": torch.ones(2)}
    made = objective(constrained(hold={"toxicity": 0.9}), sft, normalizer=normalizer, **change)
    made.observe(own)
    want = 2 * wins(direction * own[:, 1].double(), direction * sft[:, 1].double()).mean().item()
    learnt = made.learnt()
    assert learnt["level/toxicity"] == pytest.approx(want, abs=1e-4)
    assert learnt["lambda/toxicity"] == pytest.approx(math.exp(0.2 * (0.9 - want)), abs=1e-4)


def test_the_scores_of_sft_are_kept_beside_the_weights_and_follow_their_columns(tmp_path: Path) -> None:
    made, own = objective(constrained(), responses(30)), responses(5, seed=2)
    made.save(tmp_path / "weights.json")
    read = Objective.load(tmp_path / "weights.json", constrained())
    turned = Objective.load(tmp_path / "weights.json", constrained(), ["toxicity", "detail"])
    torch.testing.assert_close(read(own), made(own))
    torch.testing.assert_close(turned(own.flip(1)), made(own))


def test_without_them_there_is_no_such_objective(tmp_path: Path) -> None:
    objective(linear, responses(30), sft_scores=None).save(tmp_path / "weights.json")
    assert "sft_scores" not in json.loads((tmp_path / "weights.json").read_text())
    with pytest.raises(UserError, match="'constrained' reads the scores of the SFT policy's responses"):
        Objective.load(tmp_path / "weights.json", constrained())


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"hold": {"toxicity": 2.0}}, r"hold.toxicity=2: give less than 2"),
        ({"hold": {"toxicity": 1.2}, "bar": 0.1}, r"hold.toxicity=1.2: give less than 1.11"),
        ({"hold": {"toxicty": 0.9}}, "names 'toxicty'.*Did you mean 'toxicity'"),
        ({"hold": {}}, "hold"),
        ({"initial": 20.0}, "initial: 20 is above maximum: 10"),
        ({"bar": 1.0}, "bar"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(params: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        constrained(**params)


# --- a constraint binds ---

# Six answers: detail pays, and is bought with toxicity. SFT gives each as often.
ANSWERS = torch.tensor([[0.0, 3.0], [1.0, 2.5], [2.0, 1.0], [3.0, 0.5], [4.0, -1.0], [5.0, -2.0]])


def learnt(made: Objective, steps: int, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The policy of exact policy gradients on average over its second half, and at the end: of a game between a policy
    and a price it is the average that comes to the optimum."""
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    average = torch.zeros(6, dtype=torch.float64)
    for step in range(steps):
        policy = logits.softmax(0)
        drawn = torch.repeat_interleave(ANSWERS, (policy * 6000).round().long(), dim=0)  # as many of each as expected
        made.observe(drawn)
        (policy * made(ANSWERS).double()).sum().backward()
        with torch.no_grad():
            logits += rate * logits.grad
            logits.grad.zero_()
        if step >= steps // 2:
            average += policy.detach() / (steps - steps // 2)
    return average, policy.detach()


@pytest.mark.slow
@pytest.mark.parametrize(("level", "bar"), [(0.9, None), (0.9, 0.4)])
def test_a_constraint_binds_at_the_optimum_of_the_linear_programme(level: float, bar: float | None) -> None:
    """max E[detail] where E[toxicity's ratio] ≥ level: unbound, the policy would give the last answer alone."""
    sft = ANSWERS.repeat(20, 1)
    made = objective(constrained(hold={"toxicity": level}, bar=bar, step_size=0.1, maximum=50.0), sft)
    average, final = learnt(made, steps=1000, rate=0.2)
    ratios = relative(ANSWERS[:, 1].double(), sft[:, 1].double(), bar).numpy()
    detail = ANSWERS[:, 0].double().numpy()
    best = linprog(-detail, A_ub=[-ratios], b_ub=[-level], A_eq=[np.ones(6)], b_eq=[1.0])
    assert ratios[5] < level and -best.fun < 5  # it does bind
    assert average.numpy() @ ratios == pytest.approx(level, abs=0.03)
    assert average.numpy() @ detail == pytest.approx(-best.fun, abs=0.15)
    assert made.learnt()["level/toxicity"] == pytest.approx(final.numpy() @ ratios, abs=0.01)


def test_the_price_rises_while_the_constraint_is_violated_and_falls_while_it_is_kept() -> None:
    sft = ANSWERS.repeat(20, 1)
    made = objective(constrained(hold={"toxicity": 0.9}, initial=0.05, step_size=0.05), sft)
    prices = []
    for _ in range(5):
        made.observe(ANSWERS[5:].repeat(10, 1))
        prices.append(made.learnt()["lambda/toxicity"])
    assert prices == sorted(prices) and prices[0] > 0.05
    made.observe(ANSWERS[:1].repeat(10, 1))
    assert made.learnt()["lambda/toxicity"] < prices[-1]


@settings(max_examples=25)
@given(st.floats(0.1, 1.9), st.integers(0, 5))
def test_no_multiplier_means_the_objectives_alone(level: float, seed: int) -> None:
    """At λ → 0 the value is the mean of the objectives."""
    made = constrained(hold={"toxicity": level}, initial=1e-9, rescale=False)
    rows = torch.randn(7, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(made(rows, NAMES), rows[:, 0])
