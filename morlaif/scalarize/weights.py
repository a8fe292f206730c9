"""Frozen statistics of raw scores, and weights: equal, given, or regressed on human labels. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from morlaif.errors import UserError, suggest

Array = NDArray[np.float64]


def frozen_statistics(scores: Array, names: Sequence[str]) -> tuple[Array, Array]:
    """Mean and deviation (K,) of raw scores (N, K). One that never varies cannot be scaled: `UserError`."""
    mean, scale = scores.mean(axis=0), scores.std(axis=0)
    for name, deviation in zip(names, scale, strict=True):
        if not np.isfinite(deviation) or deviation < 1e-8:
            raise UserError(
                f"'{name}' gives every one of {len(scores)} responses the same score, which cannot be normalised: "
                "train its preference model longer, look at the judge or function that scores it, or leave it out"
            )
    return mean, scale


@dataclass(frozen=True)
class Regression:
    """Logistic regression P(first ≻ second) = σ(Σ b_k d_k) without intercept, on N labelled pairs.

    `standardized`: coefficients of d_k / std(d_k), comparable between principles. `raw`: of the raw score differences.
    """

    names: list[str]
    standardized: list[float]
    raw: list[float]
    low: list[float]  # interval of the raw coefficients (Wald)
    high: list[float]
    p_value: list[float]  # of a coefficient of zero
    pairs: int
    log_loss: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def regress(difference: Array, label: Array, names: Sequence[str], significance: float = 0.05) -> Regression:
    """Maximum likelihood without penalty. `difference` (N, K): score of the first minus score of the second, raw.
    `label` (N,): human probability that the first is better.

    Without an intercept, and labels may be soft: the fit is the same whichever response of a pair stands first.
    Raises `UserError` where the labels are separable (no finite maximum) or principles are copies of one another.
    """
    count, size = difference.shape
    if count <= size:
        raise UserError(
            f"weights: {count} human-labelled pairs cannot fix {size} weights; give more pairs or method=equal"
        )
    spread = np.sqrt((difference**2).mean(axis=0))  # about zero: the order of a pair is arbitrary
    for name, deviation in zip(names, spread, strict=True):
        if deviation < 1e-8:
            raise UserError(f"weights: preference model '{name}' scores both responses of every pair alike")
    x = difference / spread

    def loss(b: Array) -> float:
        z = x @ b
        return float((np.logaddexp(0, z) - label * z).sum())

    def gradient(b: Array) -> Array:
        return x.T @ (special.expit(x @ b) - label)

    def hessian(b: Array) -> Array:
        p = special.expit(x @ b)
        return (x * (p * (1 - p))[:, None]).T @ x

    fit = optimize.minimize(loss, np.zeros(size), jac=gradient, hess=hessian, method="trust-exact")
    curvature = hessian(fit.x)
    if not fit.success or np.abs(fit.x).max() > 50 or np.linalg.cond(curvature) > 1e10:
        raise UserError(
            f"weights: the regression on {count} pairs has no finite, unique optimum (labels that the scores separate "
            "perfectly, or principles that copy one another); give more pairs, fewer principles, or method=equal"
        )
    error = np.sqrt(np.diag(np.linalg.inv(curvature)))
    quantile = stats.norm.ppf(1 - significance / 2)
    low, high = (fit.x - quantile * error) / spread, (fit.x + quantile * error) / spread
    return Regression(
        names=list(names),
        standardized=fit.x.tolist(),
        raw=(fit.x / spread).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        p_value=(2 * stats.norm.sf(np.abs(fit.x / error))).tolist(),
        pairs=count,
        log_loss=loss(fit.x) / count,
    )


def given_weights(values: Mapping[str, float], names: Sequence[str]) -> Array:
    """The weight of each principle from a mapping that names them all; a missing one is an error, never a zero."""
    for name in names:
        if name not in values:
            raise UserError(
                f"weights.values has no weight for '{name}'; give it one (0 leaves it out).{suggest(name, values)}"
            )
    return np.array([values[name] for name in names], dtype=float)


def from_raw(raw: Array, scale: Array, names: Sequence[str], zero: Sequence[str]) -> Array:
    """Signed weights of normalised scores from coefficients of raw ones; the kept ones average 1 in size.

    σ(raw · r) = σ(raw · scale · z): a coefficient grows by the deviation that normalising divides by. The average of 1
    keeps temperatures and thresholds of scalarizers in the unit that they have under equal weights.
    """
    weights = raw * scale
    kept = np.array([name not in zero for name in names])
    size = np.abs(weights[kept]).mean() if kept.any() else 0.0
    return weights / size if size > 0 else weights


def signed(weights: Array, names: Sequence[str], zero: Sequence[str]) -> tuple[Array, Array]:
    """(direction, weight) of signed weights: a negative one flips the score and weighs by its size; `zero` ones leave.

    Under a minimum, a median or a product, scaling by a negative number after the fact would mix up good and bad.
    """
    kept = np.array([name not in zero for name in names], dtype=float)
    return np.where(weights < 0, -1.0, 1.0), np.abs(weights) * kept
