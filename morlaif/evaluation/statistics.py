"""Estimates with intervals. Pure functions over numpy arrays; no model, no file, no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its confidence interval from `n` independent units (pairs or prompts). No data: all three are NaN."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON: NaN becomes None."""
        bounds = {"value": self.value, "low": self.low, "high": self.high}
        return {key: None if math.isnan(x) else x for key, x in bounds.items()} | {"n": self.n}


NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def wilson(share: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval for a proportion (Wilson 1927): `share` in [0, 1] of `n` independent trials.

    A share that counts ties as ½ has at most the variance p(1−p) of a proportion: the interval is then conservative.
    """
    if n == 0:
        return NOTHING
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # rounding must not push a bound past the value it encloses
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def accuracy(correct: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of `correct` (N,), 1 right, 0 wrong, ½ undecided; NaN is left out. Wilson interval."""
    values = np.asarray(correct, dtype=float)
    values = values[~np.isnan(values)]
    return wilson(float(values.mean()), values.size, confidence) if values.size else NOTHING


def bootstrap_mean(values: ArrayLike, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """Mean of `values` (N,) with the percentile bootstrap over its N units; NaN is left out."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if x.size == 0:
        return NOTHING
    rng = np.random.default_rng(seed)
    means = x[rng.integers(0, x.size, size=(resamples, x.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(x.mean()), float(low), float(high), x.size)


def outcomes(forward: ArrayLike, backward: ArrayLike, valid: ArrayLike | None = None) -> Array:
    """Outcome for the first candidate on each prompt, (N,): mean over both orders of win 1, tie ½, loss 0.

    `forward` and `backward` (N,) are the judge's probabilities that the first candidate is better, shown first and
    shown second; a probability of exactly ½ is a tie. Where `valid` (N,) is false the outcome is NaN.
    """
    both = np.stack([np.asarray(forward, dtype=float), np.asarray(backward, dtype=float)])
    result = ((np.sign(both - 0.5) + 1) / 2).mean(axis=0)
    return result if valid is None else np.where(np.asarray(valid, dtype=bool), result, np.nan)


@dataclass(frozen=True, slots=True)
class WinRate:
    """The first candidate against the second: win 1, tie ½, over prompts judged in both orders."""

    rate: Interval
    wins: float  # share of prompts whose outcome exceeds ½; the three shares sum to 1
    ties: float
    losses: float
    flips: float  # share of prompts on which the two orders name different winners
    invalid: int  # prompts without a usable verdict, left out

    def as_dict(self) -> dict[str, float | int | None]:
        rest = {"wins": self.wins, "ties": self.ties, "losses": self.losses, "flips": self.flips}
        rest = {key: None if math.isnan(x) else x for key, x in rest.items()}
        return self.rate.as_dict() | rest | {"invalid": self.invalid}


def win_rate(
    forward: ArrayLike,
    backward: ArrayLike,
    valid: ArrayLike | None = None,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> WinRate:
    """Win rate of the first candidate; arguments as for `outcomes`, prompts are the units of the bootstrap.

    When every prompt has the same outcome all resamples agree and the bootstrap would claim certainty: then Wilson.
    """
    per_prompt = outcomes(forward, backward, valid)
    seen = ~np.isnan(per_prompt)
    kept = per_prompt[seen]
    if kept.size == 0:
        return WinRate(NOTHING, math.nan, math.nan, math.nan, math.nan, int(per_prompt.size))
    if np.ptp(kept) == 0:
        rate = wilson(float(kept[0]), kept.size, confidence)
    else:
        rate = bootstrap_mean(kept, seed=seed, resamples=resamples, confidence=confidence)
    sides = np.sign(np.asarray(forward, dtype=float) - 0.5) * np.sign(np.asarray(backward, dtype=float) - 0.5)
    return WinRate(
        rate,
        wins=float((kept > 0.5).mean()),
        ties=float((kept == 0.5).mean()),
        losses=float((kept < 0.5).mean()),
        flips=float((sides[seen] < 0).mean()),
        invalid=int((~seen).sum()),
    )


def cohen_kappa(first: Sequence, second: Sequence) -> float:
    """Agreement of two raters beyond chance (Cohen 1960); NaN when both always give one and the same category."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"two raters need the same, positive number of items, got {len(first)} and {len(second)}")
    a, b = np.asarray(first), np.asarray(second)
    observed = float((a == b).mean())
    expected = sum(float((a == c).mean()) * float((b == c).mean()) for c in np.union1d(a, b))
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


def correlation(columns: ArrayLike, method: str = "pearson") -> Array:
    """Correlations (K, K) of the columns of `columns` (N, K), each pair over the rows where both are known (not NaN).

    NaN where a column is constant or fewer than three rows are shared. `method`: "pearson" or "spearman".
    """
    x = np.asarray(columns, dtype=float)
    result = np.full((x.shape[1], x.shape[1]), np.nan)
    for i in range(x.shape[1]):
        for j in range(i + 1):
            both = ~np.isnan(x[:, i]) & ~np.isnan(x[:, j])
            result[i, j] = result[j, i] = _correlate(x[both, i], x[both, j], method)
    return result


def _correlate(a: Array, b: Array, method: str) -> float:
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float((stats.pearsonr if method == "pearson" else stats.spearmanr)(a, b).statistic)


def brier(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Mean squared distance of `probability` (N,) from `outcome` (N,) in [0, 1]."""
    return float(np.mean((np.asarray(probability, dtype=float) - np.asarray(outcome, dtype=float)) ** 2))


def calibration_error(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): |mean outcome − mean probability| over equal-width bins,
    weighted by the number of items; a probability of 1 falls into the last bin."""
    p, y = np.asarray(probability, dtype=float), np.asarray(outcome, dtype=float)
    which = np.minimum((p * bins).astype(int), bins - 1)
    gaps = (abs(y[which == b].mean() - p[which == b].mean()) * (which == b).mean() for b in np.unique(which))
    return float(sum(gaps))
