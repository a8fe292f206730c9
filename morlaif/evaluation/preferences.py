"""How preference models and objectives agree with labels, from their scores alone. Pure functions over numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from morlaif.evaluation.statistics import Array, Interval, accuracy, bootstrap_mean, brier, calibration_error


def agreement(gap: ArrayLike, label: ArrayLike) -> Array:
    """Whether the sign of `gap` (N,), score of the first minus score of the second, agrees with `label` (N,), the
    probability that the first is better: 1, 0, or ½ where the gap is 0. NaN where the label is NaN or exactly ½."""
    gap, label = np.asarray(gap, dtype=float), np.asarray(label, dtype=float)
    side = np.sign(label - 0.5)
    return np.where(np.isnan(label) | (side == 0), np.nan, (1 + np.sign(gap) * side) / 2)


def pair_accuracy(gap: ArrayLike, label: ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy of `gap` on the pairs that `label` decides, as in `agreement`."""
    return accuracy(agreement(gap, label), confidence)


def calibration(gap: ArrayLike, label: ArrayLike) -> dict[str, float] | None:
    """Brier score and expected calibration error of σ(gap) against the hard label; None when no pair is decided.

    The model's own probability under Bradley-Terry; soft labels are rounded to the side they favour.
    """
    gap, label = np.asarray(gap, dtype=float), np.asarray(label, dtype=float)
    decided = ~np.isnan(label) & (label != 0.5)
    if not decided.any():
        return None
    p, y = expit(gap[decided]), (label[decided] > 0.5).astype(float)
    return {"brier": brier(p, y), "ece": calibration_error(p, y)}


def change(before: Array, after: Array, *, seed: int, resamples: int, confidence: float) -> list[Interval]:
    """Mean change of each column from `before` to `after` (N, K), paired by prompt, in deviations of `before`.

    A column that is constant before is left in its own unit.
    """
    spread = before.std(axis=0)
    difference = (after - before) / np.where(spread > 0, spread, 1.0)
    return [
        bootstrap_mean(difference[:, k], seed=seed, resamples=resamples, confidence=confidence)
        for k in range(difference.shape[1])
    ]
