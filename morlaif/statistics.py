"""Estimates with intervals. Pure functions over numpy arrays; no model, no file, no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypedDict

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
TIE = 1e-9  # a difference that is smaller is none: a mean over two orders may miss one half by its last digit


class Resampling(TypedDict):
    """How bootstrap intervals are taken."""

    seed: int
    resamples: int
    confidence: float


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
    z2 = scipy.stats.norm.ppf((1 + confidence) / 2) ** 2
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
    means = resample_counts(x.size, seed=seed, resamples=resamples) @ x / x.size
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(x.mean()), float(low), float(high), x.size)


def bootstrap_share(values: ArrayLike, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """As `bootstrap_mean`, of `values` in [0, 1]. When all are the same, every resample agrees and the bootstrap would
    claim certainty: then Wilson."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if x.size and np.ptp(x) == 0:
        return wilson(float(x[0]), x.size, confidence)
    return bootstrap_mean(x, seed=seed, resamples=resamples, confidence=confidence)


@lru_cache(maxsize=4)
def resample_counts(n: int, *, seed: int, resamples: int) -> Array:
    """How often each of `n` units is drawn in each bootstrap resample: (resamples, n), rows sum to n; read-only.

    Sums over resampled units are then matrix products; whatever shares these counts is resampled together.
    """
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)
    counts.setflags(write=False)
    return counts


def percentiles(value: float, draws: ArrayLike, n: int, confidence: float = 0.95) -> Interval:
    """`value` with the percentile interval of its bootstrap `draws` (R,), of which NaN is left out."""
    known = np.asarray(draws, dtype=float)
    known = known[~np.isnan(known)]
    if math.isnan(value) or known.size == 0:
        return NOTHING
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(min(low, value)), float(max(high, value)), n)


def bias_corrected(value: float, draws: ArrayLike, n: int, confidence: float = 0.95) -> Interval:
    """As `percentiles`, with the levels moved by how far `value` lies from the median draw (Efron 1981).

    For fits whose resamples lean away from zero, as those of a logistic model do: plain percentiles then cover too
    little.
    """
    known = np.asarray(draws, dtype=float)
    known = known[~np.isnan(known)]
    if math.isnan(value) or known.size == 0:
        return NOTHING
    below = float((known < value).mean() + (known == value).mean() / 2)
    shift = scipy.stats.norm.ppf(np.clip(below, 1 / (known.size + 1), known.size / (known.size + 1)))
    z = scipy.stats.norm.ppf((1 + confidence) / 2)
    low, high = np.quantile(known, scipy.stats.norm.cdf([2 * shift - z, 2 * shift + z]))
    return Interval(float(value), float(min(low, value)), float(max(high, value)), n)


def bootstrap_crossed(values: ArrayLike, *, seed: int, resamples: int = 2000, confidence: float = 0.95) -> Interval:
    """Mean of `values` (N, S) where both the N units and the S conditions are a sample: both are resampled.

    The pigeonhole bootstrap (Owen 2007); rows that hold NaN are left out.
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x).any(axis=1)]
    if x.size == 0:
        return NOTHING
    rows = resample_counts(x.shape[0], seed=seed, resamples=resamples)
    columns = resample_counts(x.shape[1], seed=seed + 1, resamples=resamples)
    return percentiles(float(x.mean()), ((rows @ x) * columns).sum(axis=1) / x.size, x.shape[0], confidence)


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
    win: float  # share of prompts whose outcome exceeds ½; the three shares sum to 1
    tie: float
    loss: float
    flip_rate: float  # share of prompts on which the two orders name different winners
    invalid: int  # prompts without a usable verdict, left out


def win_rate(
    forward: ArrayLike,
    backward: ArrayLike,
    valid: ArrayLike | None = None,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> WinRate:
    """Win rate of the first candidate; arguments as for `outcomes`, prompts are the units of `bootstrap_share`."""
    per_prompt = outcomes(forward, backward, valid)
    seen = ~np.isnan(per_prompt)
    kept = per_prompt[seen]
    if kept.size == 0:
        return WinRate(NOTHING, math.nan, math.nan, math.nan, math.nan, int(per_prompt.size))
    return WinRate(
        bootstrap_share(kept, seed=seed, resamples=resamples, confidence=confidence),
        win=float((kept > 0.5).mean()),
        tie=float((kept == 0.5).mean()),
        loss=float((kept < 0.5).mean()),
        flip_rate=float(flipped(forward, backward)[seen].mean()),
        invalid=int((~seen).sum()),
    )


def flipped(forward: ArrayLike, backward: ArrayLike) -> NDArray[np.bool_]:
    """(N,) where the two orders name different winners; a tie in either names none."""
    return (np.asarray(forward, dtype=float) - 0.5) * (np.asarray(backward, dtype=float) - 0.5) < 0


def cohen_kappa(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960); NaN when both always give one and the same category."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"two raters need the same, positive number of items, got {len(first)} and {len(second)}")
    a, b = np.asarray(first), np.asarray(second)
    observed = float((a == b).mean())
    expected = sum(float((a == c).mean()) * float((b == c).mean()) for c in np.union1d(a, b))
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


def krippendorff_alpha(ratings: ArrayLike, level: Literal["nominal", "ordinal", "interval"] = "nominal") -> float:
    """Agreement of any number of raters beyond chance (Krippendorff 2011): 1 perfect, 0 chance.

    `ratings` (raters, items) holds numbers, NaN where a rater did not rate; items with fewer than two ratings say
    nothing. `level` tells how far apart two ratings are: nominal (equal or not), ordinal (how many ratings lie between)
    or interval (squared difference). NaN when all ratings are equal.
    """
    x = np.asarray(ratings, dtype=float)
    values, coded = np.unique(x[~np.isnan(x)], return_inverse=True)
    items = np.nonzero(~np.isnan(x))[1]
    counts = np.zeros((x.shape[1], values.size))  # how often each item got each value
    np.add.at(counts, (items, coded), 1)
    counts = counts[counts.sum(axis=1) >= 2]
    weight = 1 / (counts.sum(axis=1) - 1)
    together = (counts * weight[:, None]).T @ counts - np.diag(weight @ counts)  # coincidences of two values
    total = together.sum(axis=0)
    distance = _distances(values, total, level)
    expected = float(total @ distance @ total)
    return math.nan if expected == 0 else 1 - (total.sum() - 1) * float((together * distance).sum()) / expected


def _distances(values: Array, total: Array, level: str) -> Array:
    """Squared distance of every two values, (V, V)."""
    match level:
        case "nominal":
            return 1.0 - np.eye(values.size)
        case "interval":
            return (values[:, None] - values) ** 2
        case "ordinal":
            middle = np.cumsum(total) - total / 2  # ratings below a value, half of its own counted
            return (middle[:, None] - middle) ** 2
    raise ValueError(f"level {level!r} is none of nominal, ordinal, interval")


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
    return float((scipy.stats.pearsonr if method == "pearson" else scipy.stats.spearmanr)(a, b).statistic)


def agreement(gap: ArrayLike, standard: ArrayLike) -> Array:
    """Whether the signs of `gap` (N,) and `standard` (N,) agree, each positive where the first of two is better.

    1, 0, or ½ where the gap is 0; NaN where the standard (a label less ½, say) is tied, or either is not known.
    """
    gap, standard = np.asarray(gap, dtype=float), np.asarray(standard, dtype=float)
    side = np.where(np.abs(standard) < TIE, np.nan, np.sign(standard))
    return (1 + np.sign(gap) * side) / 2


def calibration(gap: ArrayLike, label: ArrayLike) -> dict[str, Any] | None:
    """`brier`, expected calibration error `ece`, and the `bins` behind it, of σ(gap): the probability under
    Bradley-Terry that the first of two is better, against `label`, in [0, 1]. NaN is no label; None without any.

    A soft label is an outcome as it is: a belief of .7 is calibrated where the labels' mean is .7, be they votes or
    shares of votes. Rounded to a side, a label of .7 would ask for a belief of 1.
    """
    gap, label = np.asarray(gap, dtype=float), np.asarray(label, dtype=float)
    known = ~np.isnan(label) & ~np.isnan(gap)
    if not known.any():
        return None
    p, y = scipy.special.expit(gap[known]), label[known]
    return {"brier": brier(p, y), "ece": calibration_error(p, y), "bins": reliability(p, y)}


def brier(probability: ArrayLike, outcome: ArrayLike) -> float:
    """Mean squared distance of `probability` (N,) from `outcome` (N,) in [0, 1]."""
    return float(np.mean((np.asarray(probability, dtype=float) - np.asarray(outcome, dtype=float)) ** 2))


def reliability(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> list[dict[str, float | int]]:
    """For each equal-width bin that holds items: mean probability, mean outcome and their number `n`. A probability of
    1 falls into the last bin."""
    p, y = np.asarray(probability, dtype=float), np.asarray(outcome, dtype=float)
    which = np.minimum((p * bins).astype(int), bins - 1)
    return [
        {"probability": float(p[inside].mean()), "outcome": float(y[inside].mean()), "n": int(inside.sum())}
        for inside in (which == b for b in np.unique(which))
    ]


def calibration_error(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): |mean outcome − mean probability| over the bins of
    `reliability`, weighted by the number of items."""
    parts = reliability(probability, outcome, bins)
    count = sum(part["n"] for part in parts)
    return sum(abs(part["outcome"] - part["probability"]) * part["n"] for part in parts) / count
