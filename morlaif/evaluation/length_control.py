"""Win rates with the effect of length taken out.

The model of AlpacaEval 2 (Dubois et al. 2404.04475), fitted anew on the run's own verdicts:

    P(first wins | prompt) = σ(θ + φ · tanh(Δ / s)),    Δ length of the first − length of the second, s = std(Δ)

The length-controlled win rate is σ(θ): what the first would win if both answers were as long. The paper's third term,
how hard a prompt is, needs verdicts on many other models and is left out.

Where one side is nearly always the longer, tanh(Δ / s) is nearly constant: only θ + φ can be known, and a fit by
likelihood alone puts θ anywhere. So the figure is a posterior mean with its equal-tailed interval, under

    σ(θ) ~ Beta(½, ½)  (Jeffreys' prior of a share)   and   φ ~ Normal(0, `SCALE`²)

Beside it stands the control of RLAIF (Lee et al. 2309.00267), a logistic on the ratio of the lengths,

    P(first wins | prompt) = σ(θ + φ · (ρ − 1) / s),    ρ = length of the first / length of the second, s = std(ρ)

read where both are as long (ρ = 1), under the same priors.

`SCALE` = 2.5 is the usual weakly informative scale of a coefficient whose input has unit size (Gelman et al. 2008): a
judge that prefers the much longer answer in 99 % of cases otherwise equal has φ = 4.6, within two deviations. The
interval follows from both priors and the verdicts. The figure is withheld, with the reason, where a bound of its
interval comes from the prior: where twice the scale would move one by more than `TOLERANCE`, or widen the interval of θ
by more than a share of `WIDENING`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit, logsumexp

from morlaif.evaluation.results import ControlledRate, Estimate, known, parts
from morlaif.statistics import NOTHING, Array, Interval

SCALE = 2.5  # deviation of φ's prior
TOLERANCE = 0.05  # by which the doubled scale may move a bound of the win rate …
WIDENING = 0.2  # … and the share by which it may widen the interval in log-odds
GRID = (80, 60)  # cells of t and φ
REACH = 6.0  # deviations of φ's prior that the first grid covers
NEGLIGIBLE = 1e-7  # of the largest marginal density: the next grid leaves it out


@dataclass(frozen=True, slots=True)
class LengthControlled:
    rate: Interval  # σ(θ); its value is NaN where it is withheld
    coefficient: Interval  # φ: above zero, the judge favours the longer answer; NaN where lengths never differ
    longer: float  # share of prompts on which the first is the longer
    withheld: str | None  # why there is no figure, where there is none

    @property
    def result(self) -> ControlledRate:
        effect = Estimate.of(self.coefficient)
        return ControlledRate(*parts(self.rate), effect, known(self.longer), self.withheld)


@dataclass(frozen=True, slots=True)
class Posterior:
    """The mass of each cell of a grid of t, where σ(θ) = sin² t, and φ; all cells sum to one."""

    t: Array  # (T + 1,) bounds of the cells, rising
    phi: Array  # (F + 1,) the same
    mass: Array  # (T, F)

    def interval_of_rate(self, n: int, confidence: float) -> Interval:
        mean, low, high = _summary(self.t, self.mass.sum(axis=1), np.sin(_middles(self.t)) ** 2, confidence)
        return Interval(mean, math.sin(low) ** 2, math.sin(high) ** 2, n)

    def interval_of_phi(self, n: int, confidence: float) -> Interval:
        return Interval(*_summary(self.phi, self.mass.sum(axis=0), _middles(self.phi), confidence), n)


def length_controlled(
    outcome: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    by: Literal["difference", "ratio"] = "difference",
) -> LengthControlled:
    """
    Args:
        outcome: (N,) of the first candidate in [0, 1], NaN where there is no verdict (see `statistics.outcomes`).
        first, second: (N,) lengths of the two answers, in any unit.
        by: what of the lengths the judge is taken to see.
    """
    y, a, b = (np.asarray(values, dtype=float) for values in (outcome, first, second))
    y, a, b = (values[~np.isnan(y)] for values in (y, a, b))
    if y.size == 0:
        return LengthControlled(NOTHING, NOTHING, math.nan, "no prompt has a valid verdict")
    difference = a - b
    x = saturated(difference) if by == "difference" else standardized(a / np.maximum(b, 1.0) - 1.0)
    made = posterior(y, x, SCALE)
    rate = made.interval_of_rate(y.size, confidence)
    coefficient = made.interval_of_phi(y.size, confidence) if x.any() else NOTHING
    longer = float((difference > 0).mean())
    withheld = None
    if x.any():
        wider = posterior(y, x, 2 * SCALE).interval_of_rate(y.size, confidence)
        if _depends_on_scale(rate, wider):
            withheld = _reason(longer, float((difference < 0).mean()), y.size)
            rate = Interval(math.nan, rate.low, rate.high, rate.n)
    return LengthControlled(rate, coefficient, longer, withheld)


def _depends_on_scale(rate: Interval, wider: Interval) -> bool:
    """Whether the interval `rate` differs too much from `wider`, whose prior has twice the scale."""
    bounds, other = np.array([rate.low, rate.high]), np.array([wider.low, wider.high])
    moved = np.abs(bounds - other).max() > TOLERANCE
    return bool(moved or np.ptp(logit(other)) > (1 + WIDENING) * np.ptp(logit(bounds)))


def saturated(difference: Array) -> Array:
    """tanh(Δ / s), (N,), s the deviation of Δ; the sign of Δ where all Δ are the same."""
    spread = difference.std()
    return np.tanh(difference / spread) if spread > 1e-12 * np.abs(difference).max() else np.sign(difference)


def standardized(excess: Array) -> Array:
    """Of ratios less 1, (N,), in units of their deviation; their sign where all are the same."""
    spread = excess.std()
    return excess / spread if spread > 1e-12 * np.abs(excess).max() else np.sign(excess)


def posterior(y: Array, x: Array, scale: float) -> Posterior:
    """Of σ(θ) and φ given outcomes `y` (N,) at `x` (N,), with `scale` the deviation of φ's prior.

    θ = logit(sin² t): Beta(½, ½) of σ(θ) is uniform in t on (0, π/2), so that a uniform grid of t needs no weights. The
    first grid covers the prior, the next ones where the last one found mass.
    """
    weight = 1 / dispersion(y)
    x, rows = np.unique(np.round(x, 2), return_inverse=True)
    wins, trials = weight * np.bincount(rows, weights=y), weight * np.bincount(rows)
    edges = [(0.0, math.pi / 2), (-REACH * scale, REACH * scale)] if x.any() else [(0.0, math.pi / 2), (-1.0, 1.0)]
    for _ in range(4):
        bounds = [np.linspace(low, high, cells + 1) for (low, high), cells in zip(edges, GRID, strict=True)]
        t, phi = map(_middles, bounds)
        theta = 2 * np.log(np.tan(t))
        density = theta[:, None] * wins.sum() + phi * (wins @ x) - 0.5 * (phi / scale) ** 2
        for at, count in zip(x, trials, strict=True):
            if abs(at) > 10:  # a ratio far out, whose exponential may overflow
                density -= count * np.logaddexp(0.0, theta[:, None] + phi * at)
            else:
                density -= count * np.log1p(np.exp(theta)[:, None] * np.exp(phi * at))
        mass = np.exp(density - logsumexp(density))
        closer = [_support(mass.sum(axis=1), edges[0]), _support(mass.sum(axis=0), edges[1])]
        if all(high - low > (b - a) / 2 for (low, high), (a, b) in zip(closer, edges, strict=True)):
            break
        edges = closer
    return Posterior(bounds[0], bounds[1], mass)


def dispersion(y: Array) -> float:
    """Variance of the outcomes about their mean, as a share of a coin's of that mean, (0, 1].

    1 for wins and losses. Ties and split orders vary less than a coin does: each then counts for more than one throw.
    One throw of a fair coin is added to either side, so that verdicts that are all alike claim no certainty.
    """
    mean = y.mean()
    return float((((y - mean) ** 2).sum() + 0.25) / (y.size * mean * (1 - mean) + 0.25))


def _support(marginal: Array, edges: tuple[float, float]) -> tuple[float, float]:
    """The part of `edges`, of equal cells, outside of which `marginal` is negligible; a cell more on either side."""
    low, high = edges
    cell = (high - low) / marginal.size
    kept = np.flatnonzero(marginal > NEGLIGIBLE * marginal.max())
    return max(low, low + (kept[0] - 1) * cell), min(high, low + (kept[-1] + 2) * cell)


def _middles(bounds: Array) -> Array:
    return (bounds[:-1] + bounds[1:]) / 2


def _summary(bounds: Array, mass: Array, values: Array, confidence: float) -> tuple[float, float, float]:
    """Mean of `values` (G,) of the cells, and the equal-tailed interval in the unit of their `bounds` (G + 1,)."""
    below = np.concatenate([[0.0], np.cumsum(mass)])
    low, high = np.interp([(1 - confidence) / 2, (1 + confidence) / 2], below / below[-1], bounds)
    return float(mass @ values), float(low), float(high)


def _reason(longer: float, shorter: float, n: int) -> str:
    """In words, why the verdicts cannot carry the figure."""
    if max(longer, shorter) > 0.9:
        side = "longer" if longer > shorter else "shorter"
        return (
            f"the first answer is {side} on {max(longer, shorter):.0%} of {n} prompts: what length does and what the "
            "answers are worth cannot be separated"
        )
    return f"{n} prompts are too few to separate what length does from what the answers are worth"
