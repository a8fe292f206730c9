"""Every scalarizer against plain Python loops, and against the properties that it declares."""

from __future__ import annotations

import functools
import itertools
import math
import random
import statistics
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif.scalarize.registry import Scalarizer, resolve
from morlaif.scalarize.settings import ScalarizerSettings

CONF = Path(__file__).parents[2] / "conf" / "scalarizer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
PRINCIPLES = ("helpfulness", "toxicity", "empathy", "detail", "bias", "context", "relevance")


@functools.cache
def preset(name: str) -> Scalarizer:
    return resolve(ScalarizerSettings(**yaml.safe_load((CONF / f"{name}.yaml").read_text())))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def soft_min(r, temperature):
    low = min(r)
    e = [math.exp(-(x - low) / temperature) for x in r]
    return sum(a * b for a, b in zip(e, r, strict=True)) / sum(e)


def variance(r):
    mean = sum(r) / len(r)
    return sum((x - mean) ** 2 for x in r) / len(r)


def cvar(r, alpha):
    left, total = alpha * len(r), 0.0
    for x in sorted(r):
        part = min(1.0, left)
        total, left = total + part * x, left - part
        if left <= 0:
            break
    return total / (alpha * len(r))


def owa(r, decay):
    weights = [decay**k for k in range(len(r))]
    return sum(w * x for w, x in zip(weights, sorted(r), strict=True)) / sum(weights)


def gini(r):
    # welfare = mean of min(x, y) over all ordered pairs of principles
    return sum(min(x, y) for x in r for y in r) / len(r) ** 2


def lexicographic(r, names, threshold, order):
    sequence = [*order, *[n for n in names if n not in order]]
    for level, name in enumerate(sequence):
        x = r[names.index(name)]
        if x < threshold or level == len(sequence) - 1:
            return level + 2 * sigmoid(x - threshold)
    raise AssertionError


def gated(r, names, gates, threshold):
    short = min(0.0, min(r[names.index(g)] for g in gates) - threshold)
    rest = [x for n, x in zip(names, r, strict=True) if n not in gates] or r
    mean = sum(rest) / len(rest)
    return short + (mean if short == 0 else min(mean, 0.0))


# (row, names, weights) -> value, at the parameters of the presets
ORACLES = {
    "linear": lambda r, n, w: sum(r),
    "max_min": lambda r, n, w: min(r),
    "soft_max_min": lambda r, n, w: soft_min(r, 1.0),
    "uncertainty_weighted": lambda r, n, w: sum(r) / len(r) - 0.5 * variance(r),
    "lower_quantile": lambda r, n, w: statistics.fmean(sorted(r)[: max(1, len(r) // 3)]),
    "max_median": lambda r, n, w: statistics.median(r),
    "bernoulli_nash": lambda r, n, w: math.prod(sigmoid(x) for x in r) ** (1 / len(r)),
    "log_sum_exp": lambda r, n, w: -math.log(sum(math.exp(-x) for x in r) / len(r)),
    "owa": lambda r, n, w: owa(r, 0.7),
    "gini": lambda r, n, w: gini(r),
    "cvar": lambda r, n, w: cvar(r, 0.25),
    "power_mean": lambda r, n, w: len(r) / sum(1 / sigmoid(x) for x in r),
    "tchebycheff": lambda r, n, w: -max(wi * (2.0 - x / wi) for x, wi in zip(r, w, strict=True)),
    "smooth_tchebycheff": lambda r, n, w: (
        -0.5 * math.log(sum(math.exp(wi * (2.0 - x / wi) / 0.5) for x, wi in zip(r, w, strict=True)))
    ),
    "log_sigmoid_sum": lambda r, n, w: sum(math.log(sigmoid(x)) for x in r),
    "lexicographic": lambda r, n, w: lexicographic(r, n, 0.0, []),
    "mean_minus_std": lambda r, n, w: sum(r) / len(r) - math.sqrt(variance(r)),
    "gated": lambda r, n, w: gated(r, n, ["toxicity"], -0.5),
    "single": lambda r, n, w: r[n.index("helpfulness")],
}


def columns(name: str, size: int) -> tuple[str, ...]:
    """Names of `size` columns, among them those that the preset names."""
    return PRINCIPLES[:size] if name != "gated" or size > 1 else ("toxicity",)


def test_every_preset_has_an_oracle() -> None:
    assert set(NAMES) == set(ORACLES)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("name", NAMES)
def test_equals_plain_loops(name: str, size: int) -> None:
    rng = random.Random(f"{name}{size}")
    rows = [[rng.gauss(0, 2) for _ in range(size)] for _ in range(1000)]
    weights = [rng.uniform(0.2, 3) for _ in range(size)]
    names = columns(name, size)
    got = preset(name)(torch.tensor(rows, dtype=torch.float64), names, torch.tensor(weights, dtype=torch.float64))
    want = torch.tensor([ORACLES[name](row, names, weights) for row in rows], dtype=torch.float64)
    assert got.shape == (1000,)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    scalarizer, rows = preset(name), torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    names = columns(name, 5)
    alone = torch.cat([scalarizer(row.unsqueeze(0), names) for row in rows])
    torch.testing.assert_close(scalarizer(rows, names), alone)
    assert scalarizer(rows[:1], names).shape == (1,)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_right(name: str, size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(6, size, dtype=torch.float64, generator=generator, requires_grad=True)
    names, scalarizer = columns(name, size), preset(name)
    assert torch.autograd.gradcheck(lambda r: scalarizer(r, names), scores)
    equal = torch.ones(2, size, requires_grad=True)  # where a deviation is zero its root has no slope
    scalarizer(equal, names).sum().backward()
    assert equal.grad is not None and equal.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_scores_stay_finite(name: str) -> None:
    rows = torch.tensor([[80.0, -80.0, 0.0], [-500.0, -500.0, -500.0], [500.0, 500.0, 500.0]])
    assert preset(name)(rows, columns(name, 3)).isfinite().all()


def test_two_bad_scores_never_look_good() -> None:
    rows = torch.tensor([[-3.0, -3.0], [3.0, 3.0], [-3.0, 3.0]])
    bad, good, mixed = preset("bernoulli_nash")(rows).tolist()
    assert bad < mixed < good


# --- Declared properties: proved or refuted ---------------------------------------------------------------------

score = st.floats(-6, 6).map(lambda x: round(x, 3))


@st.composite
def row(draw, low: int = 1, high: int = 6):
    return draw(st.lists(score, min_size=low, max_size=high))


def value(name: str, r: list[float], weights: list[float] | None = None) -> float:
    tensor = torch.tensor([r], dtype=torch.float64)
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return preset(name)(tensor, columns(name, len(r)), w).item()


def declared(key: str, kind: object) -> list[str]:
    return [name for name in NAMES if getattr(preset(name).properties, key) == kind]


def test_every_preset_declares_its_properties() -> None:
    for name in NAMES:
        assert None not in vars(preset(name).properties).values(), name


@pytest.mark.parametrize("name", declared("monotone", True))
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_monotone(name: str, data) -> None:
    r = data.draw(row())
    i, rise = data.draw(st.integers(0, len(r) - 1)), data.draw(st.floats(0, 20))
    raised = [x + rise * (k == i) for k, x in enumerate(r)]
    assert value(name, raised) >= value(name, r) - 1e-9


@pytest.mark.parametrize("name", declared("symmetric", True))
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_symmetric(name: str, data) -> None:
    r = data.draw(row())
    weights = data.draw(st.lists(st.floats(0.1, 4), min_size=len(r), max_size=len(r)))
    order = data.draw(st.permutations(range(len(r))))
    moved = value(name, [r[k] for k in order], [weights[k] for k in order])
    assert moved == pytest.approx(value(name, r, weights), abs=1e-9)


@pytest.mark.parametrize("name", declared("homogeneous", True))
@settings(max_examples=50, deadline=None)
@given(r=row(), factor=st.floats(0.01, 50))
def test_homogeneous(name: str, r: list[float], factor: float) -> None:
    assert value(name, [factor * x for x in r]) == pytest.approx(factor * value(name, r), rel=1e-9, abs=1e-9)


BOUNDS = {
    "between": lambda r, f: min(r) - 1e-9 <= f <= max(r) + 1e-9,
    "below": lambda r, f: f <= max(r) + 1e-9,
    "unit": lambda r, f: 0 <= f <= 1,
    "nonpositive": lambda r, f: f <= 0,
    "nonnegative": lambda r, f: f >= 0,
}


@pytest.mark.parametrize("name", [name for name in NAMES if preset(name).properties.bounds != "none"])
@settings(max_examples=80, deadline=None)
@given(r=row())
def test_bounds(name: str, r: list[float]) -> None:
    assert BOUNDS[preset(name).properties.bounds](r, value(name, r))


def grid(size: int):
    return itertools.product((-4.0, -1.0, 0.0, 0.5, 2.0, 5.0), repeat=size)


@pytest.mark.parametrize("name", declared("monotone", False))
def test_monotone_is_refuted(name: str) -> None:
    falls = (value(name, [r[0] + 2, *r[1:]]) < value(name, list(r)) - 1e-6 for r in grid(3))
    assert any(falls)


@pytest.mark.parametrize("name", declared("symmetric", False))
def test_symmetric_is_refuted(name: str) -> None:
    assert any(abs(value(name, list(r)) - value(name, [*r[1:], r[0]])) > 1e-6 for r in grid(3))


@pytest.mark.parametrize("name", declared("homogeneous", False))
def test_homogeneous_is_refuted(name: str) -> None:
    assert any(abs(value(name, [2 * x for x in r]) - 2 * value(name, list(r))) > 1e-6 for r in grid(2))


@pytest.mark.parametrize("bound", list(BOUNDS))
def test_unbounded_ones_break_every_bound(bound: str) -> None:
    for name in declared("bounds", "none"):
        rows = itertools.chain(grid(2), [(-9.0, -9.0), (9.0, 9.0), (40.0, 40.0)])
        assert any(not BOUNDS[bound](r, value(name, list(r))) for r in rows), (name, bound)


def test_mean_minus_std_is_monotone_for_small_penalties() -> None:
    scalarizer = resolve(
        ScalarizerSettings(name="m", function="morlaif.scalarize.functions.mean_minus_std", params={"penalty": 0.5})
    )
    rows = torch.tensor(list(grid(4)), dtype=torch.float64)  # 0.5 < 1/√3
    raised = rows.clone()
    raised[:, 0] += 1
    assert (scalarizer(raised) >= scalarizer(rows) - 1e-9).all()
