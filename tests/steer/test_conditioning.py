"""Weights of a policy as shares, as words, as draws, and as a file beside its model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morlaif.errors import Damaged, UserError
from morlaif.steer.conditioning import FILE, Steering, drawn, read_steering, rounded, shares_of, spoken

NAMES = ("detail", "conciseness")
TEXT = Steering("text", NAMES, (0.25, 0.75))
USER = {"role": "user", "content": "Why?"}

shares = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda row: sum(row) > 1e-6)


@given(shares)
def test_percents_are_whole_sum_to_100_and_lie_within_one(row: list[float]) -> None:
    exact = [100 * x / math.fsum(row) for x in row]
    found = rounded([x / 100 for x in exact], 100)
    assert sum(found) == 100 and all(isinstance(x, int) and abs(x - y) < 1 for x, y in zip(found, exact, strict=True))
    assert all(x >= y for x, p in zip(found, exact, strict=True) for y, q in zip(found, exact, strict=True) if p > q)


@given(st.integers(0, 2**62), st.integers(1, 20), st.integers(2, 6), st.floats(0.01, 50))
def test_draws_are_what_can_be_told(seed: int, count: int, principles: int, alpha: float) -> None:
    names = [f"p{k}" for k in range(principles)]
    for row in drawn(seed, count, principles, alpha, 100):
        assert (
            spoken(names, row)
            == f"What counts: {', '.join(f'{n} {round(100 * x)}%' for n, x in zip(names, row, strict=True))}."
        )
        assert shares_of(dict(zip(names, row, strict=True)), names) == pytest.approx(row)


def test_draws_are_dirichlet() -> None:
    """Mean 1 / K and variance (K - 1) / (K² (K α + 1)) of each, up to rounding and 4 standard errors."""
    for alpha in (0.3, 1.0, 4.0):
        first = [row[0] for row in drawn(5, 4000, 3, alpha, 100)]
        mean = sum(first) / 4000
        variance = sum((x - mean) ** 2 for x in first) / 4000
        wanted = 2 / (9 * (3 * alpha + 1))
        assert mean == pytest.approx(1 / 3, abs=4 * math.sqrt(wanted / 4000))
        assert variance == pytest.approx(wanted, rel=0.1)


def test_a_system_turn_tells_and_one_that_is_there_goes_on() -> None:
    told = TEXT.told([USER], {"detail": 2, "conciseness": 1})
    assert told == [{"role": "system", "content": "What counts: detail 67%, conciseness 33%."}, USER]
    both = TEXT.told([{"role": "system", "content": "Be kind."}, USER], {"detail": 1})
    assert both == [{"role": "system", "content": "Be kind.\n\nWhat counts: detail 100%, conciseness 0%."}, USER]
    assert Steering("lora", NAMES, (0.5, 0.5)).told([USER], {"detail": 1}) == [USER]


def test_a_text_policy_is_the_same_model_at_all_weights() -> None:
    model = object()
    assert TEXT.at(model, {"detail": 1}) is model  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_steering(tmp_path) is None
    for made in (TEXT, Steering("text", NAMES, (1.0, 0.0), 4), Steering("lora", ("a", "b", "c"), (0.2, 0.3, 0.5))):
        made.write(tmp_path)
        found = read_steering(tmp_path)
        assert found == made and found is not None and found.folder == tmp_path
    TEXT.write(tmp_path)
    assert "What counts: detail 25%, conciseness 75%." in (tmp_path / FILE).read_text()


@pytest.mark.parametrize("text", ["{}", "[]", '{"kind": "text", "weights": {"a": "b"}, "steps": 1}', "{"])
def test_a_damaged_file_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(Damaged, match=r"steer\.json"):
        read_steering(tmp_path)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"detial": 1}, r"no principle 'detial'; it takes detail, conciseness. Did you mean 'detail'\?"),
        ({"detail": -1}, "detail: -1 should be a number from 0 on"),
        ({"detail": float("nan")}, "detail: nan should be a number"),
        ({"detail": 0, "conciseness": 0}, "all are zero; give one of detail, conciseness a number above 0"),
        ({}, "all are zero"),
    ],
)
def test_weights_that_cannot_be(weights: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TEXT.told([USER], weights)


def test_a_policy_that_knows_tenths_is_told_tenths() -> None:
    tenths = Steering("text", NAMES, (0.5, 0.5), 10)
    assert (
        tenths.told([USER], {"detail": 1, "conciseness": 7})[0]["content"]
        == "What counts: detail 10%, conciseness 90%."
    )
    assert {round(10 * x, 9) % 1 for row in drawn(3, 50, 3, 1.0, 10) for x in row} == {0}
