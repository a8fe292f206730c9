"""Win rates with the effect of length taken out.

The model of AlpacaEval 2 (Dubois et al. 2404.04475), refitted on the run's own verdicts:

    P(first wins | prompt) = σ(θ + φ · tanh(Δ / s)),    Δ length of the first − length of the second, s = std(Δ)

The length-controlled win rate is σ(θ): what the first would win if both answers were as long. Their third term, how
hard a prompt is, needs verdicts on many other models and is left out. Nothing but Jeffreys' prior (Firth 1993) shrinks
the fit; it keeps θ finite where one side wins every prompt. The bootstrap repeats the whole fit, s included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from morlaif.evaluation.statistics import NOTHING, Array, Interval, bias_corrected, resample_counts

AT_ONCE = 2_000_000  # numbers in one block of the bootstrap: 16 MB an array


@dataclass(frozen=True, slots=True)
class LengthControlled:
    rate: Interval  # σ(θ)
    coefficient: Interval  # φ: above zero, the judge favours the longer answer; NaN where lengths never differ
    longer: float  # share of prompts on which the first is the longer

    def as_dict(self) -> dict[str, Any]:
        return self.rate.as_dict() | {"coef_length": self.coefficient.as_dict(), "longer": self.longer}


def length_controlled(
    outcome: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> LengthControlled:
    """`outcome` (N,) of the first candidate in [0, 1], NaN where there is no verdict (see `statistics.outcomes`);
    `first` and `second` (N,) are the lengths of the two answers, in any unit."""
    y, difference = np.asarray(outcome, dtype=float), np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    y, difference = y[~np.isnan(y)], difference[~np.isnan(y)]
    if y.size == 0:
        return LengthControlled(NOTHING, NOTHING, math.nan)
    theta, phi = start = fit(y, difference, np.ones((1, y.size)))[0]
    draws = []
    counts = resample_counts(y.size, seed=seed, resamples=resamples)
    for block in np.array_split(counts, max(1, math.ceil(counts.size / AT_ONCE))):
        draws.append(fit(y, difference, block, start))
    sampled = np.concatenate(draws)
    return LengthControlled(
        bias_corrected(float(expit(theta)), expit(sampled[:, 0]), y.size, confidence),
        bias_corrected(float(phi), sampled[:, 1], y.size, confidence),
        float((difference > 0).mean()),
    )


def fit(y: Array, difference: Array, weight: Array, start: Array | None = None) -> Array:
    """θ and φ, (R, 2), for each row of `weight` (R, N): how often each prompt counts. φ is NaN where lengths never
    differ, and θ then stands alone.

    Newton's method on the score with Firth's correction, Σ w (y − p) x + h (½ − p) x, h the leverage.
    """
    total = weight.sum(axis=1, keepdims=True)
    mean = weight @ difference[:, None] / total
    spread = np.sqrt((weight * (difference - mean) ** 2).sum(axis=1, keepdims=True) / total)
    known = spread[:, 0] > 1e-12
    x = np.tanh(difference / np.where(spread > 1e-12, spread, np.inf))  # (R, N); zeros where lengths never differ
    beta = np.tile(np.nan_to_num(np.zeros(2) if start is None else start), (len(weight), 1))
    beta[~known, 1] = 0.0
    for _ in range(100):
        p = expit(beta[:, :1] + beta[:, 1:] * x)
        variance = weight * p * (1 - p)
        a, b, c = variance.sum(1), (variance * x).sum(1), (variance * x * x).sum(1)
        c = np.where(known, c, 1.0)  # an information of one for what is not estimated: its step is zero
        determinant = a * c - b * b
        inverse = np.stack([c, -b, a]) / determinant  # (3, R): θθ, θφ, φφ
        tt, tf, ff = (part[:, None] for part in inverse)
        leverage = variance * (tt + 2 * tf * x + np.where(known[:, None], ff * x * x, 0.0))
        residual = weight * (y - p) + leverage * (0.5 - p)
        u, v = residual.sum(1), (residual * x).sum(1)
        step = np.stack([inverse[0] * u + inverse[1] * v, inverse[1] * u + inverse[2] * v], axis=1)
        beta += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    return np.where([True, False], beta, np.where(known[:, None], beta, np.nan))
