"""Means over what was random in an experiment: the seeds of training and the prompts of its evaluation.

All policies answer the same prompts, so seeds and prompts are crossed. With x (S, N) the value of seed s on prompt p,

    x = μ + seed + prompt + rest,        Var(mean) = σ²_seed/S + σ²_prompt/N + σ²_rest/(S·N).

The spread of the S means of the seeds shows the first and the last part and knows nothing of the prompts; the bootstrap
takes few seeds for many. The interval here adds the parts' own half-widths in quadrature, each with Student's quantile
of its degrees of freedom (the method of variance estimates recovery, Zou and Donner 2008):

    half² = t²(S−1) · MS_seed/(S·N)  +  t²(N−1) · max(0, MS_prompt − MS_rest)/(S·N)

`benchmarks/seed_intervals.py` measures how often each interval covers the truth; docs/statistics.md has its table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from morlaif.statistics import NOTHING, Array, Interval, wilson

# What an interval covers. "prompts": one seed, so other seeds may differ by more than it says.
Method = Literal["seeds and prompts", "seeds", "prompts", "none"]
Seed = tuple[str, ...]  # of each source that has one of its own
LEAST = 1e-12  # a smaller p-value is given as this


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of independent random parts: for each part the variance it gives to the mean, and its degrees of freedom.

    No data: the value is NaN.
    """

    value: float
    parts: tuple[tuple[float, float], ...]
    seeds: int
    prompts: int  # 0 where only the means of the seeds are known
    method: Method
    share: bool = False  # it lies within 0 and 1

    def half_width(self, confidence: float) -> float:
        return math.sqrt(sum(variance * _quantile(freedom, confidence) ** 2 for variance, freedom in self.parts))

    def interval(self, confidence: float = 0.95) -> Interval:
        """A share that was the same everywhere has Wilson's interval over its prompts: no spread is no certainty."""
        if math.isnan(self.value):
            return NOTHING
        if self.method == "none":
            return Interval(self.value, math.nan, math.nan, self.prompts)
        half = self.half_width(confidence)
        if self.share and half == 0 and self.prompts:
            return wilson(self.value, self.prompts, confidence)
        low, high = self.value - half, self.value + half
        if self.share:
            low, high = max(0.0, low), min(1.0, high)
        return Interval(self.value, low, high, self.prompts or self.seeds)

    def p_value(self, null: float) -> float:
        """Two-sided: one minus the largest confidence whose interval leaves `null` out. NaN without an interval."""
        if math.isnan(self.value) or self.method == "none":
            return math.nan

        def inside(confidence: float) -> bool:
            found = self.interval(confidence)
            return found.low <= null <= found.high

        if self.value == null:
            return 1.0
        if not inside(1 - LEAST):
            return LEAST
        if len(self.parts) == 1 and not self.share:  # Student's own
            ((variance, freedom),) = self.parts
            return float(2 * scipy.stats.t.sf(abs(self.value - null) / math.sqrt(variance), freedom))
        # the distance from the bound is a rising function of the confidence, up to steps of the floats
        away = abs(self.value - null)
        if not (self.share and self.half_width(0.5) == 0):
            return 1 - float(scipy.optimize.brentq(lambda c: self.half_width(c) - away, 0.0, 1 - LEAST / 10))
        low, high = 0.0, 1 - LEAST
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if inside(middle) else (middle, high)
        return 1 - low


NO_MEAN = Mean(math.nan, (), 0, 0, "none")


@lru_cache(maxsize=4096)
def _quantile(freedom: float, confidence: float) -> float:
    return float(scipy.stats.t.ppf((1 + confidence) / 2, freedom)) if freedom > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Components:
    """Variance of a single value, split by its source; none is below zero."""

    seed: float
    prompt: float
    rest: float  # of seed with prompt, and of the verdict itself

    @property
    def shares(self) -> dict[str, float]:
        """Sum to one; all zero where nothing varied."""
        total = self.seed + self.prompt + self.rest
        found = {"seed": self.seed, "prompt": self.prompt, "rest": self.rest}
        return {name: part / total if total else 0.0 for name, part in found.items()}


def mean_squares(values: Array) -> tuple[float, float, float]:
    """Of seeds, prompts and rest, in the two-way layout `values` (S, N) without NaN, S and N at least 2."""
    count, prompts = values.shape
    middle, of_seed, of_prompt = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seed[:, None] - of_prompt + middle
    return (
        float(prompts * ((of_seed - middle) ** 2).sum() / (count - 1)),
        float(count * ((of_prompt - middle) ** 2).sum() / (prompts - 1)),
        float((rest**2).sum() / ((count - 1) * (prompts - 1))),
    )


def components(values: ArrayLike) -> Components | None:
    """Of `values` (S, N), by the mean squares of the two-way random-effects model (Searle, Casella and McCulloch
    1992); a negative estimate is zero. Prompts with NaN are left out; None below two seeds or two prompts."""
    x = complete(values)
    if min(x.shape) < 2:
        return None
    seed, prompt, rest = mean_squares(x)
    return Components(max(0.0, (seed - rest) / x.shape[1]), max(0.0, (prompt - rest) / x.shape[0]), rest)


def complete(values: ArrayLike) -> Array:
    """The prompts of `values` (S, N) on which every seed has a value."""
    x = np.atleast_2d(np.asarray(values, dtype=float))
    return x[:, ~np.isnan(x).any(axis=0)]


def crossed(values: ArrayLike, *, seeds: Sequence[Seed] | None = None, share: bool = False) -> Mean:
    """Mean over seeds and prompts of `values` (S, N): S seeds that answered the same N prompts, NaN where unknown.

    With one seed the interval is over prompts alone. A seed's own mean is over all that it has. `seeds` (S,) name each
    row's seed where several sources have seeds of their own.
    """
    x = np.atleast_2d(np.asarray(values, dtype=float))
    known = ~np.isnan(x).all(axis=1)
    if x.size == 0 or not known.any():
        return NO_MEAN
    x, seeds = x[known], seeds and [seed for seed, kept in zip(seeds, known, strict=True) if kept]
    if x.shape[0] == 1:
        return over_prompts(x[0], share=share)
    of_seed = np.nanmean(x, axis=1)
    whole = complete(x)
    parts = _seed_parts(of_seed, seeds)
    if whole.shape[1] > 1:
        _, prompt, rest = mean_squares(whole)
        parts.append((max(0.0, prompt - rest) / whole.size, whole.shape[1] - 1.0))
    prompts = int((~np.isnan(x)).any(axis=0).sum())
    return Mean(float(of_seed.mean()), tuple(parts), of_seed.size, prompts, "seeds and prompts", share)


def cross_pairs(values: ArrayLike, *, share: bool = False) -> Mean:
    """Mean of `values` (S, T, N): S seeds of one arm against T of another that share none, on the same N prompts.

    Both arms' seeds are a sample, and so are the prompts, whose part here holds the rest too: a little too wide.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or np.isnan(x).all():
        return NO_MEAN
    rows, columns, prompts = (_known_means(x, axis) for axis in range(3))
    parts = [(float(m.var(ddof=1)) / m.size, m.size - 1.0) for m in (rows, columns, prompts) if m.size > 1]
    seeds = min(rows.size, columns.size)
    method: Method = "seeds and prompts" if seeds > 1 else "prompts"
    return Mean(float(np.nanmean(x)), tuple(parts), seeds, prompts.size, method, share)


def _known_means(values: Array, axis: int) -> Array:
    """The mean of each slice along `axis` that has a value."""
    flat = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return np.asarray(np.nanmean(flat[~np.isnan(flat).all(axis=1)], axis=1))


def over_seeds(values: Sequence[float] | Array, *, seeds: Sequence[Seed] | None = None, share: bool = False) -> Mean:
    """Mean of `values` (S,), one a seed, with Student's t: where no prompts are shared, or none are known. NaN is left
    out; `seeds` as in `crossed`."""
    x = np.asarray(values, dtype=float)
    known = ~np.isnan(x)
    x, seeds = x[known], seeds and [seed for seed, kept in zip(seeds, known, strict=True) if kept]
    if x.size == 0:
        return NO_MEAN
    if np.ptp(x) == 0:  # one seed, or all alike: how far another would be off cannot be known
        return Mean(float(x[0]), (), x.size, 0, "none", share)
    return Mean(float(x.mean()), tuple(_seed_parts(x, seeds)), x.size, 0, "seeds", share)


def _seed_parts(means: Array, seeds: Sequence[Seed] | None) -> list[tuple[float, float]]:
    """Variance that the seeds give to the mean of `means` (S,), with its degrees of freedom, source by source.

    Rows are independent where one source varies, or where no two rows share a seed of it. Where sources are crossed
    (each seed of the preference models with each of PPO), rows that share a seed are not: then each source counts by
    the means of its own levels, and what the sources do together once.
    """
    sources = {tuple(column) for column in zip(*(seeds or ()), strict=True)}
    levels = [np.unique(column, return_inverse=True)[1] for column in sources if len(set(column)) > 1]
    if not levels or any(level.max() + 1 == means.size for level in levels):
        return [(float(means.var(ddof=1)) / means.size, means.size - 1.0)]
    found = []
    for level in sorted(levels, key=lambda level: int(level.max())):
        own = np.bincount(level, weights=means) / np.bincount(level)
        found.append((float(own.var(ddof=1)) / own.size, own.size - 1.0))
    if len(levels) == 2 and means.size == (found[0][1] + 1) * (found[1][1] + 1):
        rows, columns = sorted(levels, key=lambda level: int(level.max()))
        table = np.zeros((rows.max() + 1, columns.max() + 1))
        table[rows, columns] = means
        together = mean_squares(table)[2] / means.size
        found[1] = max(0.0, found[1][0] - together), found[1][1]
    return found


def over_prompts(values: ArrayLike, *, share: bool = False) -> Mean:
    """Mean of `values` (N,) of one seed, with Student's t over the prompts. NaN is left out."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if x.size < 2:
        return Mean(float(x[0]), (), 1, 1, "none", share) if x.size else NO_MEAN
    return Mean(float(x.mean()), ((float(x.var(ddof=1)) / x.size, x.size - 1.0),), 1, x.size, "prompts", share)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for having made all these comparisons (Holm 1979), in their order; NaN stays and is not counted."""
    known = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 0.0
    for rank, (p, k) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        adjusted[k] = least
    return adjusted


def rank_ranges(better: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """Best and worst rank of each of K, where better[i][j] says that i is clearly better than j.

    From comparisons that are adjusted together these ranges hold all true ranks at once (Mogstad et al. 2024).
    """
    count = len(better)
    return [
        (1 + sum(better[j][i] for j in range(count)), count - sum(better[i][j] for j in range(count)))
        for i in range(count)
    ]
