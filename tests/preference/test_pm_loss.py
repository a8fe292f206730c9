"""Losses of a pair against plain formulas, and what they promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from morlaif.preference.loss import centring, margin_bradley_terry, soft_bradley_terry

number = st.floats(-8, 8)


def tensors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(number, number, st.floats(0, 1))
def test_soft_is_cross_entropy(first: float, second: float, p: float) -> None:
    belief = 1 / (1 + math.exp(second - first))
    want = -p * math.log(belief) - (1 - p) * math.log(1 - belief)
    assert soft_bradley_terry(*tensors(first, second, p)).item() == pytest.approx(want, abs=1e-6)


@given(number, number, st.floats(0, 1))
def test_soft_does_not_care_which_is_first(first: float, second: float, p: float) -> None:
    turned = soft_bradley_terry(*tensors(second, first, 1 - p)).item()
    assert soft_bradley_terry(*tensors(first, second, p)).item() == pytest.approx(turned, abs=1e-9)


def test_soft_is_least_where_belief_meets_the_judge() -> None:
    gaps = torch.linspace(-4, 4, 801, dtype=torch.float64)
    p = torch.full_like(gaps, 0.8)
    best = gaps[soft_bradley_terry(gaps, torch.zeros_like(gaps), p).argmin()]
    assert best.item() == pytest.approx(math.log(0.8 / 0.2), abs=0.01)


@given(number, number, st.floats(0.01, 0.99))
def test_margin_is_a_shifted_logistic(first: float, second: float, p: float) -> None:
    gap = math.log(p / (1 - p))
    sign = (gap > 0) - (gap < 0)
    want = math.log1p(math.exp(-(sign * (first - second) - 0.5 * abs(gap)))) if abs(gap) > 1e-12 else 0.0
    assert margin_bradley_terry(*tensors(first, second, p), 0.5).item() == pytest.approx(want, abs=1e-6)


def test_margin_leaves_ties_and_bounds_certainty() -> None:
    tie, sure = margin_bradley_terry(*[torch.tensor([0.0, 0.0])] * 2, torch.tensor([0.5, 1.0]), 1.0).tolist()
    assert tie == 0 and sure == pytest.approx(math.log1p(math.exp(10)))


def test_centring_counts_the_offset_alone() -> None:
    assert centring(*tensors(3.0, -3.0)).item() == 0
    assert centring(*tensors(2.0, 1.0)).item() == 9
