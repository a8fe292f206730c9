"""Frozen statistics of raw scores, and weights: equal, given, or regressed on human labels. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from morlaif.errors import UserError

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

    @property
    def sign(self) -> list[str]:
        """What humans do with each principle, as far as the interval tells: reward, punish or undecided."""
        return [
            "reward" if low > 0 else "punish" if high < 0 else "undecided"
            for low, high in zip(self.low, self.high, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sign": self.sign}


def regress(difference: Array, label: Array, names: Sequence[str], significance: float = 0.05) -> Regression:
    """Maximum likelihood without penalty. `difference` (N, K): score of the first minus score of the second, raw.
    `label` (N,): human probability that the first is better.

    Without an intercept, and labels may be soft: the fit is the same whichever response of a pair is first.
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
        return x.T @ (scipy.special.expit(x @ b) - label)

    def hessian(b: Array) -> Array:
        p = scipy.special.expit(x @ b)
        return (x * (p * (1 - p))[:, None]).T @ x

    fit = scipy.optimize.minimize(loss, np.zeros(size), jac=gradient, hess=hessian, method="trust-exact")
    curvature = hessian(fit.x)
    if not fit.success or np.abs(fit.x).max() > 50 or np.linalg.cond(curvature) > 1e10:
        raise UserError(
            f"weights: the regression on {count} pairs has no finite, unique optimum (labels that the scores separate "
            "perfectly, or principles that copy one another); give more pairs, fewer principles, or method=equal"
        )
    best = fit.x - np.linalg.solve(curvature, gradient(fit.x))  # a last Newton step squares the error that is left
    error = np.sqrt(np.diag(np.linalg.inv(hessian(best))))
    quantile = scipy.stats.norm.ppf(1 - significance / 2)
    low, high = (best - quantile * error) / spread, (best + quantile * error) / spread
    return Regression(
        names=list(names),
        standardized=best.tolist(),
        raw=(best / spread).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        p_value=(2 * scipy.stats.norm.sf(np.abs(best / error))).tolist(),
        pairs=count,
        log_loss=loss(best) / count,
    )


def unit(raw: Array, scale: Array, names: Sequence[str], zero: Sequence[str]) -> Array:
    """Factors (K,) > 0 that turn coefficients of raw scores into weights of normalised ones, of average size 1.

    σ(raw · r) = σ(raw · scale · z): a coefficient grows by the deviation that normalising divides by. The average of 1,
    over the principles that are kept, leaves temperatures and thresholds of scalarizers in the unit that they have
    under equal weights. As a factor it serves the ends of an interval too.
    """
    kept = np.array([name not in zero for name in names])
    size = np.abs(raw * scale)[kept].mean() if kept.any() else 0.0
    return scale / size if size > 0 else scale


def signed(weights: Array, names: Sequence[str], zero: Sequence[str]) -> tuple[Array, Array]:
    """(direction, weight) of signed weights: a negative one flips the score and weighs by its size; `zero` ones leave.

    Under a minimum, a median or a product, scaling by a negative number after the fact would mix up good and bad.
    """
    kept = np.array([name not in zero for name in names], dtype=float)
    return np.where(weights < 0, -1.0, 1.0), np.abs(weights) * kept
