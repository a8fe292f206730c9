"""Fronts: what policies for many weights of the same objectives reach, as points with one coordinate an objective.

More is better in every coordinate. The metrics are functions of points alone; `WayFront` and `Fronts` are what a run
leaves of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from morlaif.evaluation.pareto import hypervolume, non_dominated
from morlaif.evaluation.results import Estimate, Rate
from morlaif.statistics import Array, Resampling, percentiles, resample_counts

FRONT, GRID = "front.json", "grid.jsonl"  # files of a unit: the numbers; every answer at every point
MOST_RESAMPLES = 200  # of a volume in three dimensions or more, which is taken point by point


def spacing(points: ArrayLike) -> float | None:
    """How unevenly `points` (P, K) are spread: the deviation of their distances to the nearest other, by sums of
    absolute differences (Schott 1995); 0 is even. None for fewer than two points.
    """
    x = np.asarray(points, dtype=float)
    if len(x) < 2:
        return None
    distances = np.abs(x[:, None] - x).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min(axis=1).std(ddof=1))


def epsilon(points: ArrayLike, reference: ArrayLike) -> float:
    """By how much `points` (P, K) would have to rise, in every coordinate, for each point of the front `reference`
    (R, K) to be reached (the additive ε-indicator, Zitzler et al. 2003); zero or below where they already do."""
    x, y = np.asarray(points, dtype=float), np.asarray(reference, dtype=float)
    return float((y[:, None] - x).max(axis=-1).min(axis=1).max())


def above_chord(points: ArrayLike, weights: ArrayLike) -> Array:
    """(P, K) how far each of `points` lies above the corners' mean by its own weights (P, K): the chord between two
    corners, the plane through more.

    Raises:
        ValueError: a corner, where all weight is on one objective, is not among the points.
    """
    x, w = np.asarray(points, dtype=float), np.asarray(weights, dtype=float)
    corners = np.stack([x[_corner(w, k)] for k in range(w.shape[1])])
    found: Array = x - w @ corners
    return found


def box_volume(points: ArrayLike, weights: ArrayLike) -> float | None:
    """Hypervolume above the worst that the corners reach in each coordinate, as a share of the box up to their best:
    a staircase along the chord between two corners tends to 1/2. None where the corners reach alike in a coordinate.
    """
    x, w = np.asarray(points, dtype=float), np.asarray(weights, dtype=float)
    corners = np.stack([x[_corner(w, k)] for k in range(w.shape[1])])
    worst, best = corners.min(axis=0), corners.max(axis=0)
    if not (best > worst).all():
        return None
    return float(volumes(((x - worst) / (best - worst))[None], np.zeros(len(worst)))[0])


def _corner(weights: Array, objective: int) -> int:
    found = np.flatnonzero(weights[:, objective] == 1)
    if not len(found):
        raise ValueError(f"no point has all its weight on objective {objective}")
    return int(found[0])


def volumes(points: ArrayLike, reference: ArrayLike) -> Array:
    """(B,) hypervolumes of B sets of points (B, P, K) above `reference` (K,); all at once for two coordinates."""
    above = np.maximum(np.asarray(points, dtype=float) - np.asarray(reference, dtype=float), 0)
    if above.shape[-1] != 2:
        return np.array([hypervolume(own, np.zeros(above.shape[-1])) for own in above])
    order = np.argsort(-above[..., 0], axis=1)
    x, y = (np.take_along_axis(above[..., k], order, axis=1) for k in range(2))
    highest = np.maximum.accumulate(y, axis=1)
    before = np.concatenate([np.zeros_like(highest[:, :1]), highest[:, :-1]], axis=1)
    found: Array = (x * (highest - before)).sum(axis=1)  # a step for each point that rises above those to its right
    return found


def drawn_volumes(values: Array, reference: float, how: Resampling) -> tuple[float, Array]:
    """The hypervolume of the means of `values` (P, N, K) over N prompts, above `reference` in each coordinate, and
    that of each bootstrap resample of the prompts (R,)."""
    _, prompts, width = values.shape
    corner = np.full(width, reference)
    most = how["resamples"] if width == 2 else min(how["resamples"], MOST_RESAMPLES)
    counts = resample_counts(prompts, seed=how["seed"], resamples=most)
    means = np.einsum("rn,pnk->rpk", counts, values, optimize=True) / prompts
    return float(volumes(values.mean(axis=1)[None], corner)[0]), volumes(means, corner)


# --- what a run leaves ----------------------------------------------------------------------------------------------

Measure = Literal["truth", "models"]  # what places a point: the world's known truth, or the preference models
DIRECT, CONDITIONED = "direct", "conditioned"  # ways: the one that others are measured by; one policy for all weights


@dataclass(frozen=True)
class FrontPoint:
    """One policy, or one setting of a policy, for one choice of weights."""

    name: str
    weights: dict[str, float]  # by objective; they sum to one
    place: dict[str, Estimate]  # by objective: over SFT's answers, in their deviations, by the front's measure
    models: dict[str, float]  # mean change by the preference models, in deviations of SFT's
    truth: dict[str, float] | None  # mean true scores, in the world's own units
    win_rate: Rate  # over SFT, by the run's judge
    tokens: float
    ended: float  # share of answers that ended by themselves
    dominated: bool  # by another of the same front
    above_chord: dict[str, float] | None  # of `place`, above that of the corners by the same weights


@dataclass(frozen=True)
class FrontCost:
    """Of training; preference models, which all ways share, are left out."""

    policies: int
    episodes: int | None  # responses learnt from
    seconds: float | None


@dataclass(frozen=True)
class WayFront:
    """front.json of a unit: one way to policies for many weights."""

    way: str
    objectives: dict[str, list[str]]  # and the principles of each
    measure: Measure
    reference: float  # of the hypervolume in each coordinate, in deviations of SFT's answers
    points: list[FrontPoint]
    sft: dict[str, float]  # mean true scores of SFT's answers, or of the models where truth is not known
    hypervolume: Estimate  # over prompts
    box: float | None  # see `box_volume`
    spacing: float | None  # of the points that no other dominates
    cost: FrontCost
    prompts: int
    judge: str

    @property
    def places(self) -> Array:
        """(P, K)"""
        return np.array([[one.value for one in point.place.values()] for point in self.points], dtype=float)


@dataclass(frozen=True)
class Against:
    """One way against direct training at each choice of weights."""

    relative: Estimate  # hypervolume as a share of that of direct training, paired by prompt
    epsilon: float  # see `epsilon`; in deviations of SFT's answers
    cost: float | None  # responses learnt from, as a share


@dataclass(frozen=True)
class Fronts:
    """front.json of a report: all ways of a run."""

    ways: dict[str, WayFront]
    against: dict[str, Against]  # by way; none where direct training is no way of the run


def front_of(made: WayFront, values: Array, weights: Array, **how: Unpack[Resampling]) -> WayFront:
    """`made` with what follows from its points' `values` (P, N, K), by prompt and objective, and `weights` (P, K)."""
    means = values.mean(axis=1)
    kept = non_dominated(means)
    value, drawn = drawn_volumes(values, made.reference, how)
    # One policy for all weights has no corners that were trained on one objective each.
    corners = made.way != CONDITIONED and all((weights[:, k] == 1).any() for k in range(weights.shape[1]))
    chord = above_chord(means, weights) if corners else None
    points = [
        replace(
            point,
            dominated=not kept[k],
            above_chord=None if chord is None else dict(zip(made.objectives, chord[k].tolist(), strict=True)),
        )
        for k, point in enumerate(made.points)
    ]
    return replace(
        made,
        points=points,
        hypervolume=Estimate.of(percentiles(value, drawn, values.shape[1], how["confidence"])),
        box=box_volume(means, weights) if corners else None,
        spacing=spacing(means[kept]),
    )


def against(ways: Mapping[str, WayFront], values: Mapping[str, Array], **how: Unpack[Resampling]) -> dict[str, Against]:
    """Each way but direct training against it. `values` (P, N, K) of each way, on the same N prompts."""
    if DIRECT not in ways:
        return {}
    reference, made = ways[DIRECT], {}
    base, base_drawn = drawn_volumes(values[DIRECT], reference.reference, how)
    for name, own in ways.items():
        if name == DIRECT or base <= 0:
            continue
        value, drawn = drawn_volumes(values[name], reference.reference, how)
        ratios = np.divide(drawn, base_drawn, out=np.full_like(drawn, np.nan), where=base_drawn > 0)
        share = percentiles(value / base, ratios, values[name].shape[1], how["confidence"])
        spent, most = own.cost.episodes, reference.cost.episodes
        cost = spent / most if spent is not None and most else None
        made[name] = Against(Estimate.of(share), epsilon(own.places, reference.places), cost)
    return made
