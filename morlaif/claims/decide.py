"""What values of several seeds say of a claim: p-values, a verdict, and power.

A seed is the unit of replication: all arms of a claim are run at each, and one number comes of each. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from morlaif.statistics import Array, Interval
from morlaif.variance import Mean, crossed, over_seeds

Kind = Literal["greater", "less", "equivalent"]
Verdict = Literal["supported", "contradicted", "undecided"]
POWER = 0.8  # with which the seeds that would decide a claim decide it
MOST = 1000  # seeds that are thought of
FLAT = 1e-12  # a deviation over seeds below this is none


@dataclass(frozen=True, slots=True)
class Threshold:
    """What is claimed of a mean: greater than `at`, less than `at`, or within `margin` of it."""

    kind: Kind
    at: float
    margin: float = 0.0  # of `equivalent`


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the seeds say of one number."""

    values: list[float]  # of each seed
    interval: Interval  # of the mean, over what was random: the seeds, and the prompts where they are known
    deviation: float  # over seeds; NaN from fewer than two
    floor: float  # variance of the mean that more seeds do not lessen: that of the prompts
    p_for: float  # of the claim being false, one-sided
    p_against: float  # of the claim being true, one-sided


def evidence(values: Sequence[float | Array], claimed: Threshold, confidence: float = 0.95) -> Evidence:
    """Of `values`, one for each seed: a number, or an array (prompts,) whose mean is the number.

    Fewer than two seeds, or seeds that all gave the same number, hold no evidence of what other seeds would give: both
    p-values are then 1.
    """
    each = [float(np.nanmean(value)) if np.size(value) else math.nan for value in values]
    mean = _mean(values)
    deviation = float(np.std(each, ddof=1)) if len(each) > 1 else math.nan
    if not deviation > FLAT:
        known = float(np.mean(each)) if each else math.nan
        return Evidence(each, Interval(known, math.nan, math.nan, len(each)), deviation, 0.0, 1.0, 1.0)

    def above(bound: float) -> float:
        """The one-sided p of a mean at or below `bound`."""
        half = mean.p_value(bound) / 2
        return half if mean.value > bound else 1 - half

    match claimed.kind:
        case "greater":
            sides = above(claimed.at), 1 - above(claimed.at)
        case "less":
            sides = 1 - above(claimed.at), above(claimed.at)
        case "equivalent":  # two one-sided tests (Schuirmann 1987); against it, either side, by Bonferroni
            low, high = above(claimed.at - claimed.margin), above(claimed.at + claimed.margin)
            sides = max(low, 1 - high), min(1.0, 2 * min(1 - low, high))
    floor = sum(variance for variance, _ in mean.parts[1:])
    return Evidence(each, mean.interval(confidence), deviation, floor, *sides)


def _mean(values: Sequence[float | Array]) -> Mean:
    """Over seeds and prompts where each seed has the same prompts, else over seeds."""
    sizes = {np.size(value) for value in values}
    if len(sizes) == 1 and min(sizes) > 1:
        return crossed(np.stack([np.asarray(value, dtype=float) for value in values]))
    return over_seeds([float(np.nanmean(value)) for value in values])


def all_of(parts: Sequence[Evidence]) -> tuple[float, float]:
    """`p_for` and `p_against` of a claim that holds where all of its parts do.

    For it, each part at the full level (intersection-union); against it, any part, by Bonferroni.
    """
    if not parts:
        return 1.0, 1.0
    return max(part.p_for for part in parts), min(1.0, len(parts) * min(part.p_against for part in parts))


def p_value(p_for: float, p_against: float, kind: Kind) -> float:
    """Of either verdict. A direction may be wrong to both sides, so its p is two-sided; whether a mean is within a
    margin is one question of two one-sided tests, at the full level each."""
    p = min(p_for, p_against)
    return p if kind == "equivalent" else min(1.0, 2 * p)


def verdict(p_for: float, p_against: float, adjusted: float, alpha: float = 0.05) -> Verdict:
    if not adjusted <= alpha:
        return "undecided"
    return "supported" if p_for < p_against else "contradicted"


def power(found: Evidence, claimed: Threshold, seeds: int, alpha: float) -> float:
    """The chance that `seeds` seeds on the same prompts decide, if mean and variance are what was found; `alpha`:
    one-sided.

    By the noncentral t. A mean within a margin needs both bounds; the chance is at least that of neither failing.
    """
    if seeds < 2 or not found.deviation > FLAT:
        return math.nan
    critical = float(scipy.stats.t.ppf(1 - alpha, seeds - 1))
    error = math.sqrt(found.deviation**2 / seeds + found.floor)

    def rejects(distance: float) -> float:
        chance = float(scipy.stats.nct.sf(critical, seeds - 1, abs(distance) / error))
        return 1.0 if math.isnan(chance) else chance  # so far away that its arithmetic gives up

    distance = found.interval.value - claimed.at
    if claimed.kind != "equivalent":
        return rejects(distance)
    if abs(distance) >= claimed.margin:
        return rejects(abs(distance) - claimed.margin)
    misses = sum(1 - rejects(claimed.margin - side * distance) for side in (1, -1))
    return max(0.0, 1 - misses)


def seeds_needed(found: Evidence, claimed: Threshold, alpha: float) -> int | None:
    """The fewest seeds that would decide with the chance `POWER`; None where `MOST` would not, or nothing is known."""
    if math.isnan(power(found, claimed, 2, alpha)) or power(found, claimed, MOST, alpha) < POWER:
        return None
    low, high = 1, 2
    while power(found, claimed, high, alpha) < POWER:
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(found, claimed, middle, alpha) >= POWER else (middle, high)
    return high
