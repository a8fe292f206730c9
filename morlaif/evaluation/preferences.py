"""How preference models and objectives agree with labels, from their scores alone. Pure functions over numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from morlaif.evaluation.results import Calibration
from morlaif.statistics import Array, Interval, accuracy, brier, calibration_error, reliability

TIE = 1e-9  # a mean over two orders may miss one half by its last digit


def agreement(gap: ArrayLike, label: ArrayLike) -> Array:
    """Whether the sign of `gap` (N,), score of the first minus score of the second, agrees with `label` (N,), the
    probability that the first is better: 1, 0, or ½ where the gap is 0. NaN where the label is NaN or exactly ½."""
    gap, label = np.asarray(gap, dtype=float), np.asarray(label, dtype=float)
    side = np.where(np.abs(label - 0.5) < TIE, 0.0, np.sign(label - 0.5))
    return np.where(np.isnan(label) | (side == 0), np.nan, (1 + np.sign(gap) * side) / 2)


def with_ties(gap: ArrayLike, label: ArrayLike) -> Array:
    """As `agreement`, but a pair that the label leaves undecided counts ½, whatever the model says: (N,), NaN only
    where there is no label."""
    right = agreement(gap, label)
    return np.where(np.isnan(np.asarray(label, dtype=float)) | np.isnan(gap), np.nan, np.nan_to_num(right, nan=0.5))


def pair_accuracy(gap: ArrayLike, label: ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy of `gap` on the pairs that `label` decides, as in `agreement`."""
    return accuracy(agreement(gap, label), confidence)


def calibration(gap: ArrayLike, label: ArrayLike) -> Calibration | None:
    """Brier score, expected calibration error and the bins behind it, of σ(gap) against the hard label; None when no
    pair is decided.

    The model's own probability under Bradley-Terry; soft labels are rounded to the side they favour.
    """
    gap, label = np.asarray(gap, dtype=float), np.asarray(label, dtype=float)
    decided = ~np.isnan(label) & (np.abs(label - 0.5) >= TIE)
    if not decided.any():
        return None
    p, y = expit(gap[decided]), (label[decided] > 0.5).astype(float)
    return Calibration(brier(p, y), calibration_error(p, y), reliability(p, y))
