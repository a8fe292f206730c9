"""How good a preference model is on held-out verdicts. Pure functions over numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from morlaif import statistics

Array = NDArray[np.float64]
TIE = 1e-9


def tied(probability: float) -> bool:
    """Whether the judge sees no difference. A mean over two orders may miss one half by its last digit."""
    return abs(probability - 0.5) < TIE


def agreement(gap: ArrayLike, probability: ArrayLike) -> Array:
    """(N,) 1 where the sign of `gap` is the judge's, 0 where not, ½ for a gap of zero; NaN where the judge ties."""
    side = np.asarray(probability, dtype=float) - 0.5
    side = np.where(np.abs(side) < TIE, 0.0, np.sign(side))
    right = (np.sign(gap) * side + 1) / 2
    return np.where(side == 0, np.nan, right)


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
    Calibration compares σ(s_1 - s_2) with the judge's probability.
    """
    p = np.asarray(probability, dtype=float)
    gap = scores[:, 0] - scores[:, 1]
    belief = 1 / (1 + np.exp(-np.clip(gap, -60, 60)))
    longer = rule * (lengths[:, 0] - lengths[:, 1])
    some = len(p) > 0
    return {
        "accuracy": statistics.accuracy(agreement(gap, p)).as_dict(),
        "length_baseline": {"rule": "longer" if rule > 0 else "shorter"}
        | statistics.accuracy(agreement(longer, p)).as_dict(),
        "length_correlation": correlation(scores.ravel(), lengths.ravel()) if some else None,
        "brier": statistics.brier(belief, p) if some else None,
        "ece": statistics.calibration_error(belief, p) if some else None,
    }
