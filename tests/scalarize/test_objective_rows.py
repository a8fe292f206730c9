"""Weights of each row: what a loop of one-row objectives gives, for every scalarizer."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif import presets
from morlaif.errors import UserError
from morlaif.scalarize.functions import max_min
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings

CONF = Path(__file__).parents[2] / "conf" / "scalarizer"
PRESETS = sorted({path.stem for path in CONF.glob("*.yaml")} - {"constrained"})  # which wants one weight for all rows
NAMES = ("helpfulness", "toxicity", "ethicality", "detail", "conciseness")


def named(value: object) -> set[str]:
    """The principles that parameters name, which must keep a weight."""
    if isinstance(value, dict):
        return {name for key, inner in value.items() for name in named(key) | named(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in named(inner)}
    return {value} & set(NAMES) if isinstance(value, str) else set()


def made(name: str, normalizer: str = "frozen") -> tuple[Objective, set[str]]:
    config = presets.preset("scalarizer", name)
    generator = torch.Generator().manual_seed(1)
    objective = Objective(
        names=NAMES, mean=torch.randn(5, generator=generator), scale=torch.rand(5, generator=generator) + 0.5,
        direction=torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0]), weight=torch.ones(5),
        scalarizer=resolve(ScalarizerSettings(**config), NAMES), normalizer=normalizer, responses=40,
    )  # fmt: skip
    return objective, named(config["params"])


rows = st.lists(
    st.lists(st.one_of(st.just(0.0), st.floats(0.05, 3.0)), min_size=5, max_size=5), min_size=1, max_size=6
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=12, deadline=None)
@given(weights=rows, seed=st.integers(0, 99))
def test_a_row_is_scalarized_as_an_objective_with_its_weights_would(
    name: str, weights: list[list[float]], seed: int
) -> None:
    objective, keeps = made(name)
    for row in weights:
        for k, principle in enumerate(NAMES):
            row[k] = max(row[k], 0.1) if principle in keeps else row[k]
        row[0] = row[0] if any(row) else 1.0
    scores = torch.randn(len(weights), 5, generator=torch.Generator().manual_seed(seed))
    objective.observe(scores)
    together = objective.at(torch.tensor(weights))(scores)
    for i, row in enumerate(weights):
        alone = replace(objective, weight=torch.tensor(row))
        alone.state = copy.deepcopy(objective.state)
        torch.testing.assert_close(together[i : i + 1], alone(scores[i : i + 1]))


@pytest.mark.parametrize("name", PRESETS)
def test_one_weight_for_all_rows_is_the_objective_bit_for_bit(name: str) -> None:
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    plain, told = made(name, "running")[0], made(name, "running")[0]
    for _ in range(2):
        plain.observe(scores)
        view = told.at(torch.ones(7, 5))
        view.observe(scores)
        assert plain.state == told.state  # a view learns for its objective
        assert torch.equal(plain(scores), view(scores))
        assert torch.equal(plain.weigh(scores), view.weigh(scores))


def test_gradients_reach_each_rows_own_scores_alone() -> None:
    view = made("linear")[0].at(torch.tensor([[2.0, 0, 0, 0, 0], [0, 0, 0, 3.0, 1.0]]))
    scores = torch.zeros(2, 5, requires_grad=True)
    view.combine(scores).sum().backward()
    assert scores.grad is not None and scores.grad.tolist() == [[2, 0, 0, 0, 0], [0, 0, 0, 3, 1]]


def test_a_zero_weight_leaves_its_own_row_before_a_minimum() -> None:
    objective = replace(made("linear")[0], scalarizer=max_min, mean=torch.zeros(5), scale=torch.ones(5))
    view = objective.at(torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0.5, 2.0]]))
    assert view.active == ("helpfulness", "detail", "conciseness")
    assert view(torch.full((2, 5), 4.0)).tolist() == [4.0, 2.0]


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([[1.0, 1.0]], r"finite weights \(batch, 5\)"),
        ([[1.0, 0, 0, 0, float("nan")]], "finite weights"),
        ([[1.0, 0, 0, 0, -1]], "from 0 on"),
        ([[0.0, 0, 0, 0, 0]], "one above it"),
        ([[1.0, 0, 0, 0, 1]], "'conciseness' has weight zero in all"),
    ],
)
def test_weights_that_cannot_be(weights: list[list[float]], says: str) -> None:
    objective = replace(made("linear")[0], weight=torch.tensor([1.0, 1, 1, 1, 0]))
    with pytest.raises(UserError, match=says):
        objective.at(torch.tensor(weights))


def test_as_many_weights_as_responses() -> None:
    with pytest.raises(UserError, match="weights of 2 responses were given 3"):
        made("linear")[0].at(torch.ones(2, 5))(torch.zeros(3, 5))


def test_a_principle_that_the_scalarizer_names_must_keep_a_weight() -> None:
    config = presets.preset("scalarizer", "single") | {"params": {"principle": "detail"}}
    objective = replace(made("linear")[0], scalarizer=resolve(ScalarizerSettings(**config), NAMES))
    with pytest.raises(UserError, match="names 'detail', which is not among the principles that count"):
        objective.at(torch.tensor([[1.0, 1, 1, 0, 1], [1.0, 1, 1, 1, 1]]))(torch.zeros(2, 5))
