"""Weights from choices: against scipy's optimiser, and those that made simulated choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from morlaif.errors import UserError
from morlaif.steer.choices import fitted, read_choices, weights_of

HOW = {"seed": 0, "resamples": 200, "confidence": 0.95}
NAMES = ("detail", "conciseness")


def simulated(worth: list[float], choices: int, seed: int, most: int = 2) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(rng.integers(2, most + 1), len(worth))) for _ in range(choices)]
    noisy = [own @ np.array(worth) + rng.gumbel(size=len(own)) for own in values]
    return values, [int(own.argmax()) for own in noisy]


def stacked(values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    most = max(map(len, values))
    there = np.array([[k < len(own) for k in range(most)] for own in values])
    padded = np.full((*there.shape, values[0].shape[1]), np.nan)
    padded[there] = np.concatenate(values)
    return padded, there


@pytest.mark.slow
@pytest.mark.parametrize("prior", [1e6, 3.0, 0.5])
def test_the_fit_is_that_of_a_general_optimiser(prior: float) -> None:
    values, liked = simulated([1.0, -0.5, 0.3], 80, 0, most=4)

    def loss(beta: np.ndarray) -> float:
        terms = [own[k] @ beta - logsumexp(own @ beta) for own, k in zip(values, liked, strict=True)]
        return -sum(terms) + beta @ beta / (2 * prior**2)

    expected = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    assert fitted(*stacked(values), np.array(liked), prior) == pytest.approx(expected, abs=1e-5)


def test_a_count_is_that_many_rows() -> None:
    values, liked = simulated([1.0, 0.2], 12, 2)
    twice = fitted(*stacked([*values, *values[:4]]), np.array([*liked, *liked[:4]]), 3.0)
    counted = fitted(*stacked(values), np.array(liked), 3.0, np.array([2.0] * 4 + [1.0] * 8))
    assert counted == pytest.approx(twice, abs=1e-9)


@pytest.mark.slow
def test_weights_that_made_the_choices_are_found() -> None:
    inside = 0
    for seed in range(12):
        found = weights_of(*simulated([1.5, 0.5], 150, seed), 3.0, **HOW)
        assert sum(found.shares) == pytest.approx(1)
        inside += found.intervals[0].low <= 0.75 <= found.intervals[0].high
        if seed == 0:
            many = weights_of(*simulated([1.5, 0.5], 4000, seed), 3.0, **HOW | {"resamples": 20})
            assert many.shares == pytest.approx((0.75, 0.25), abs=0.03)
    assert inside >= 10


@pytest.mark.slow
def test_an_objective_that_is_disliked_has_no_weight() -> None:
    found = weights_of(*simulated([1.5, -1.0], 200, 0), 3.0, **HOW)
    assert found.shares == (1.0, 0.0) and found.worth[1] < 0
    with pytest.raises(UserError, match="against every objective"):
        weights_of(*simulated([-1.5, -1.0], 200, 0), 3.0, **HOW)


def test_choices_without_a_fault_are_held_by_the_prior() -> None:
    values, liked = [np.array([[1.0, 0.0], [0.0, 0.1 * k]]) for k in range(5)], [0] * 5
    found = weights_of(values, liked, 3.0, **HOW)
    assert found.shares[0] > 0.8 and 1 < found.worth[0] < 6


ANSWERS = [{"text": "a", "scores": {"detail": 1, "conciseness": 0.5}}, {"text": "b", "scores": None}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"liked": 2}, r"choices\.jsonl:2: `liked` should be the place of one of 2 answers"),
        ({"liked": True}, "`liked` should be the place"),
        ({"answers": ANSWERS[:1]}, "`answers` should be two or more"),
        ({"answers": [ANSWERS[0], {"text": 3}]}, "each an object with its `text`"),
        ({"prompt": None}, "has neither `prompt`"),
        ({"answers": [{"text": "a", "scores": {"detial": 1}}, ANSWERS[1]]}, "Did you mean 'detail'"),
        ({"answers": [{"text": "a", "scores": {"detail": 1}}, ANSWERS[1]]}, "score of conciseness is null"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    row = {"prompt": "p", "answers": ANSWERS, "liked": 1}
    file = tmp_path / "choices.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | change) + "\n")
    with pytest.raises(UserError, match=says) as error:
        read_choices(file, NAMES)
    assert "\n" not in str(error.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    file, scored = tmp_path / "choices.jsonl", [ANSWERS[0], {"text": "b", "scores": {"conciseness": 2, "detail": -1}}]
    file.write_text(json.dumps({"prompt": "p", "answers": scored, "liked": 1}) + "\n")
    (one,) = read_choices(file, NAMES)
    assert one.values == ((1.0, 0.5), (-1.0, 2.0)) and one.liked == 1 and one.texts == ("a", "b")
    file.write_text("")
    with pytest.raises(UserError, match="holds no choice"):
        read_choices(file, NAMES)
