"""How good a preference model is on held-out verdicts. Pure functions over numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from morlaif import statistics
from morlaif.statistics import TIE, Array


def tied(probability: float) -> bool:
    """Whether the judge sees no difference. A mean over two orders may miss one half by its last digit."""
    return abs(probability - 0.5) < TIE


def agreement(gap: ArrayLike, probability: ArrayLike) -> Array:
    """`statistics.agreement` of score differences (N,) with the judge's probability (N,) that the first is better."""
    return statistics.agreement(gap, np.asarray(probability, dtype=float) - 0.5)


def length_rule(train_gap: ArrayLike, train_probability: ArrayLike) -> float:
    """+1 if the longer response is the better guess on the training pairs, -1 if the shorter."""
    right = agreement(train_gap, train_probability)
    return 1.0 if np.isnan(right).all() or np.nanmean(right) >= 0.5 else -1.0


def correlation(x: ArrayLike, y: ArrayLike) -> float | None:
    """Pearson's r, None where a side is constant."""
    value = statistics.correlation(np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1))[0, 1]
    return None if np.isnan(value) else float(value)


def held_out(scores: Array, lengths: Array, probability: ArrayLike, rule: float) -> dict[str, Any]:
    """The report on N held-out pairs.

    scores, lengths: (N, 2) of first and second response; probability: (N,) of the judge; rule: see `length_rule`.
    Calibration: `statistics.calibration`.
    """
    p = np.asarray(probability, dtype=float)
    gap = scores[:, 0] - scores[:, 1]
    longer = rule * (lengths[:, 0] - lengths[:, 1])
    fit = statistics.calibration(gap, p)
    return {
        "accuracy": statistics.accuracy(agreement(gap, p)).as_dict(),
        "length_baseline": {"rule": "longer" if rule > 0 else "shorter"}
        | statistics.accuracy(agreement(longer, p)).as_dict(),
        "length_correlation": correlation(scores.ravel(), lengths.ravel()) if len(p) else None,
        "brier": fit and fit["brier"],
        "ece": fit and fit["ece"],
    }
