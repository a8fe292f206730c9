"""Every scalarizer against plain Python loops, and against the properties that it declares."""

from __future__ import annotations

import functools
import itertools
import math
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from morlaif import presets
from morlaif.scalarize.registry import Scalarizer, resolve
from morlaif.scalarize.settings import ScalarizerSettings

CONF = Path(__file__).parents[2] / "conf" / "scalarizer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
PRINCIPLES = (
    "helpfulness", "toxicity", "empathy", "detail", "bias", "context",
    "relevance", "factuality", "sycophancy", "ethicality", "conciseness", "understandability",
)  # fmt: skip


def configured(name: str, **params) -> Scalarizer:
    """The preset, with some of its parameters changed."""
    config = presets.preset("scalarizer", name)
    return resolve(ScalarizerSettings(**config | {"params": config["params"] | params}))


preset = functools.cache(configured)


# --- The oracles: one row at a time, plain Python, from the formulas ------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def mean(r):
    return sum(r) / len(r)


def variance(r):
    return sum((x - mean(r)) ** 2 for x in r) / len(r)


def soft_min(r, temperature):
    low = min(r)
    e = [math.exp(-(x - low) / temperature) for x in r]
    return sum(a * b for a, b in zip(e, r, strict=True)) / sum(e)


def log_mean_exp(r, temperature):
    low = min(r)
    return low - temperature * math.log(sum(math.exp(-(x - low) / temperature) for x in r) / len(r))


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


def power_mean(r, exponent):
    u = [sigmoid(x) for x in r]
    if exponent == 0:
        return math.prod(u) ** (1 / len(u))
    return (sum(x**exponent for x in u) / len(u)) ** (1 / exponent)


def gaps(r, w, ideal):
    """w_i (z* - r_i) from r'_i = w_i r_i."""
    return [wi * (ideal - x / wi) for x, wi in zip(r, w, strict=True)]


def smooth_max(x, temperature):
    high = max(x)
    return high + temperature * math.log(sum(math.exp((v - high) / temperature) for v in x))


def lexicographic(r, names, threshold, order):
    sequence = [*(order or []), *[n for n in names if n not in (order or [])]]
    for level, name in enumerate(sequence):
        x = r[names.index(name)]
        if x < threshold or level == len(sequence) - 1:
            return level + 2 * sigmoid(x - threshold)
    raise AssertionError


def gated(r, names, gates, threshold):
    short = min(0.0, min(r[names.index(g)] for g in gates) - threshold)
    rest = [x for n, x in zip(names, r, strict=True) if n not in gates] or r
    return short + (mean(rest) if short == 0 else min(mean(rest), 0.0))


def lagrangian(r, names, objectives, constraints, thresholds, initial, rescale, **_):
    chosen = objectives or [n for n in names if n not in constraints] or constraints
    value, total = mean([r[names.index(n)] for n in chosen]), 1.0
    for name, threshold in zip(constraints, thresholds, strict=True):
        value -= initial * (threshold - r[names.index(name)])
        total += initial
    return value / total if rescale else value


def constrained(r, names, objectives, hold, bar, initial, rescale, **_):
    """With SFT's scores at 199 quantiles of a normal, as where none are given."""
    sft = [statistics.NormalDist().inv_cdf((k + 0.5) / 199) for k in range(199)]
    chosen = objectives or [n for n in names if n not in hold] or hold
    value = mean([r[names.index(n)] for n in chosen])
    for name, level in hold.items():
        x = r[names.index(name)]
        if bar is None:
            share = np.interp(x, sft, [(k + 0.5) / 199 for k in range(199)], left=0, right=1) / 0.5
        else:
            edge = min(e for e in sft if sum(s <= e for s in sft) >= bar * 199 - 1e-6)
            share = (x >= edge) / mean([s >= edge for s in sft])
        value -= initial * (level - share)
    return value / (1 + initial * len(hold)) if rescale else value


# (row, names, weights, parameters) -> value. The paper's seven stand first, as the formulas of arXiv 2406.07295.
ORACLES = {
    "linear": lambda r, n, w, p: sum(r),
    "max_min": lambda r, n, w, p: min(r),
    "soft_max_min": lambda r, n, w, p: soft_min(r, **p),
    "uncertainty_weighted": lambda r, n, w, p: mean(r) - p["penalty"] * variance(r),
    "lower_quantile": lambda r, n, w, p: statistics.fmean(sorted(r)[: max(1, int(len(r) * p["fraction"] + 1e-9))]),
    "max_median": lambda r, n, w, p: statistics.median(r),
    "bernoulli_nash": lambda r, n, w, p: math.prod(sigmoid(x) for x in r) ** (1 / len(r) if p["root"] else 1),
    "log_sum_exp": lambda r, n, w, p: log_mean_exp(r, **p),
    "owa": lambda r, n, w, p: owa(r, **p),
    # welfare: the mean of min(x, y) over all ordered pairs of principles
    "gini": lambda r, n, w, p: sum(min(x, y) for x in r for y in r) / len(r) ** 2,
    "cvar": lambda r, n, w, p: cvar(r, **p),
    "power_mean": lambda r, n, w, p: power_mean(r, **p),
    "tchebycheff": lambda r, n, w, p: -max(gaps(r, w, p["ideal"])),
    "smooth_tchebycheff": lambda r, n, w, p: -smooth_max(gaps(r, w, p["ideal"]), p["temperature"]),
    "log_sigmoid_sum": lambda r, n, w, p: sum(math.log(sigmoid(x - p["reference"])) for x in r),
    "lexicographic": lambda r, n, w, p: lexicographic(r, n, **p),
    "mean_minus_std": lambda r, n, w, p: mean(r) - p["penalty"] * math.sqrt(variance(r)),
    "gated": lambda r, n, w, p: gated(r, n, **p),
    "single": lambda r, n, w, p: r[n.index(p["principle"])],
    "lagrangian": lambda r, n, w, p: lagrangian(r, n, **p),
    "constrained": lambda r, n, w, p: constrained(r, n, **p),
    # as they are at the start; `test_objective_state` has the steps after it
    "scheduled": lambda r, n, w, p: sum(x * p["points"].get(k, [(1, 1.0)])[0][1] for k, x in zip(n, r, strict=True)),
    "hypervolume": lambda r, n, w, p: sum(r),
}

# beside each preset's own parameters, these; all fit any K
VARIANTS = {
    "soft_max_min": [{"temperature": 0.1}, {"temperature": 7.0}],
    "uncertainty_weighted": [{"penalty": 0.0}, {"penalty": 0.1}],
    "lower_quantile": [{"fraction": 0.5}, {"fraction": 1.0}, {"fraction": 0.01}],
    "bernoulli_nash": [{"root": False}],
    "log_sum_exp": [{"temperature": 0.05}, {"temperature": 20.0}],
    "owa": [{"decay": 1.0}, {"decay": 0.1}],
    "cvar": [{"alpha": 1.0}, {"alpha": 0.01}, {"alpha": 0.6}],
    "power_mean": [{"exponent": 0.0}, {"exponent": 1.0}, {"exponent": 3.5}, {"exponent": -20.0}],
    "tchebycheff": [{"ideal": -1.0}],
    "smooth_tchebycheff": [{"ideal": 0.0, "temperature": 3.0}],
    "log_sigmoid_sum": [{"reference": -2.0}],
    "lexicographic": [{"threshold": -1.0}],
    "mean_minus_std": [{"penalty": 0.2}],
    "gated": [{"threshold": 1.0}],
    "lagrangian": [{"rescale": False, "initial": 3.0}, {"thresholds": [-2.0], "initial": 0.01}],
    "constrained": [{"rescale": False, "initial": 3.0}, {"hold": {"toxicity": 1.4}, "bar": 0.4}, {"bar": 0.1}],
    "scheduled": [{"points": {"toxicity": [[5, 3.0]]}}],
    "hypervolume": [{"below": 0.5}],
}
# and these, which name three principles
WIDE = {
    "lexicographic": [{"order": ["empathy", "toxicity"]}],
    "gated": [{"gates": ["empathy", "toxicity"], "threshold": 0.3}],
    "single": [{"principle": "empathy"}],
    "lagrangian": [{"constraints": ["toxicity", "helpfulness"], "thresholds": [0.4, -0.2], "objectives": ["empathy"]}],
    "constrained": [{"hold": {"toxicity": 0.5, "helpfulness": 1.2}, "objectives": ["empathy"]}],
}
SIZES = (1, 2, 3, 4, 7, 12)
BATCHES = (1, 1, 2, 3, 60)


def columns(name: str, size: int) -> tuple[str, ...]:
    """Names of `size` columns, among them those that the preset names."""
    named = ("gated", "lagrangian", "constrained", "scheduled")
    return PRINCIPLES[:size] if name not in named or size > 1 else ("toxicity",)


def compare(name: str, params: dict, size: int, rows: int, rng: random.Random) -> None:
    scalarizer = configured(name, **params)
    table = [[rng.gauss(0, 2) for _ in range(size)] for _ in range(rows)]
    weights = [rng.uniform(0.2, 3) for _ in range(size)]
    names = columns(name, size)
    got = scalarizer(torch.tensor(table, dtype=torch.float64), names, torch.tensor(weights, dtype=torch.float64))
    want = [ORACLES[name](row, names, weights, scalarizer.params) for row in table]
    assert got.shape == (rows,)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), atol=1e-6, rtol=1e-9)


def test_every_preset_has_an_oracle() -> None:
    assert set(NAMES) == set(ORACLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equals_plain_loops(name: str) -> None:
    rng = random.Random(name)
    for size in SIZES:
        for params in [{}, *VARIANTS.get(name, []), *(WIDE.get(name, []) if size >= 3 else [])]:
            for rows in BATCHES:
                compare(name, params, size, rows, rng)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_scores_and_their_gradients_are_no_nan(name: str, dtype: torch.dtype) -> None:
    rows = [[80.0, -80.0, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0] * 3]
    scores = torch.tensor(rows, dtype=dtype, requires_grad=True)
    value = preset(name)(scores, columns(name, 3))
    assert value.dtype == dtype and value.isfinite().all()
    value.sum().backward()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_near(name: str) -> None:
    """bfloat16 has 8 bits: about 0.4 % of the largest number on the way, in which sums and thresholds may fall."""
    rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).bfloat16()
    names, weights = columns(name, 4), torch.ones(4)
    exact = preset(name)(rows.double(), names, weights.double())
    near = preset(name)(rows, names, weights.bfloat16()).double()
    assert ((near - exact).abs() <= 0.03 * (1 + exact.abs())).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_graph_the_value_is_the_same(name: str) -> None:
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    value = preset(name)(scores, columns(name, 4))
    assert value.requires_grad
    with torch.no_grad():
        plain = preset(name)(scores, columns(name, 4))
    with torch.inference_mode():
        inferred = preset(name)(scores.detach(), columns(name, 4))
    assert plain.grad_fn is None and torch.equal(plain, value) and torch.equal(inferred, value)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", declared("monotone", True))
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_monotone(name: str, data) -> None:
    r = data.draw(row())
    i, rise = data.draw(st.integers(0, len(r) - 1)), data.draw(st.floats(0, 20))
    raised = [x + rise * (k == i) for k, x in enumerate(r)]
    assert value(name, raised) >= value(name, r) - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", declared("symmetric", True))
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_symmetric(name: str, data) -> None:
    r = data.draw(row())
    weights = data.draw(st.lists(st.floats(0.1, 4), min_size=len(r), max_size=len(r)))
    order = data.draw(st.permutations(range(len(r))))
    moved = value(name, [r[k] for k in order], [weights[k] for k in order])
    assert moved == pytest.approx(value(name, r, weights), abs=1e-9)


@pytest.mark.slow
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


@pytest.mark.slow
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


# what a declaration denies: the bounds that it neither is nor implies
DENIED = {
    "between": ["unit", "nonpositive", "nonnegative"],
    "below": ["between", "unit", "nonpositive", "nonnegative"],
    "unit": ["between", "below", "nonpositive"],
    "nonpositive": ["between", "unit", "nonnegative"],
    "nonnegative": ["between", "below", "unit", "nonpositive"],
    "none": list(BOUNDS),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_other_bound_is_refuted(name: str) -> None:
    for bound in DENIED[preset(name).properties.bounds]:
        rows = itertools.chain(grid(1), grid(2), grid(3), [(-9.0, -9.0), (9.0, 9.0), (40.0, 40.0)])
        assert any(not BOUNDS[bound](r, value(name, list(r))) for r in rows), bound


def test_mean_minus_std_is_monotone_for_small_penalties() -> None:
    scalarizer = resolve(
        ScalarizerSettings(name="m", function="morlaif.scalarize.functions.mean_minus_std", params={"penalty": 0.5})
    )
    rows = torch.tensor(list(grid(4)), dtype=torch.float64)  # 0.5 < 1/√3
    raised = rows.clone()
    raised[:, 0] += 1
    assert (scalarizer(raised) >= scalarizer(rows) - 1e-9).all()
