"""How preference models and objectives agree with labels, from their scores alone. Pure functions over numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from morlaif import statistics
from morlaif.evaluation.results import Calibration
from morlaif.statistics import Array, Interval, accuracy


def agreement(gap: ArrayLike, label: ArrayLike) -> Array:
    """`statistics.agreement` of score differences (N,) with labels (N,), the probability that the first is better."""
    return statistics.agreement(gap, np.asarray(label, dtype=float) - 0.5)


def with_ties(gap: ArrayLike, label: ArrayLike) -> Array:
    """As `agreement`, but a pair that the label leaves undecided counts ½, whatever the model says: (N,), NaN only
    where there is no label."""
    right = agreement(gap, label)
    return np.where(np.isnan(np.asarray(label, dtype=float)) | np.isnan(gap), np.nan, np.nan_to_num(right, nan=0.5))


def pair_accuracy(gap: ArrayLike, label: ArrayLike, confidence: float = 0.95) -> Interval:
    """Accuracy of `gap` on the pairs that `label` decides, as in `agreement`."""
    return accuracy(agreement(gap, label), confidence)


def calibration(gap: ArrayLike, label: ArrayLike) -> Calibration | None:
    """`statistics.calibration`; None without labels."""
    found = statistics.calibration(gap, label)
    return None if found is None else Calibration(**found)
