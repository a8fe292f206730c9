"""Which point of a measured front serves given weights best. Pure functions over numpy arrays.

A policy is asked at shares λ of its objectives, and the front has measured what it then answers at the points of a
grid. Weights w say what the answers are worth: the mean over prompts of a scalarized value. The λ of most worth need
not be w: a soup at λ = w is not the policy that was trained for w.

Between grid points the worth is interpolated: around each point by the quadratic through that point which fits its
neighbours within two steps by least squares. It is exact at the points, gives back a front that is linear or quadratic,
and is a linear map of what was measured, so that it has a value for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from morlaif.statistics import Array, Interval, Resampling, bootstrap_mean, percentiles, resample_counts
from morlaif.steer.conditioning import Shares, rounded
from morlaif.steer.simplex import Point

Worth = Callable[[Shares], Array]  # of weights (K,): what each answer is worth by them (P, N), at each point and prompt
REACH = 2  # steps of the grid within which a point's neighbours lie
_HALVINGS = 10  # of the search's step: to a thousandth of the grid's
_FLAT = 1e-9  # curvature that is none


@dataclass(frozen=True)
class Served:
    """The λ that serves weights best."""

    shares: Shares  # λ (K,)
    intervals: tuple[Interval, ...]  # of each share, over prompts and over what the weights may be
    measured: Point  # the point of the grid of most worth
    worth: float  # at λ, interpolated, the mean over prompts
    plain: float  # at λ = w
    gain: Interval  # of λ over w: chosen on some prompts, measured on others


def serve(
    worth: Worth,
    points: Sequence[Point],
    weights: Shares,
    drawn: Sequence[Shares] | None = None,
    **how: Unpack[Resampling],
) -> Served:
    """The λ of most worth by `weights`, and what it gains over asking at the weights themselves.

    The gain is cross-fitted: for each half of the prompts λ is chosen on the other. Unlike that of `worth` over `plain`
    it is none on average where the front does not tell λ from w. Its interval is a bootstrap over prompts; the halves
    are not independent, so that there a 95 % one covers zero in 92 % of cases. The intervals of λ come of choosing it
    anew on each resample of the prompts.

    Args:
        points: P points of one grid, all of it.
        drawn: other weights, one for each resample: what `weights` may be as well.

    Raises:
        ValueError: fewer than two prompts.
    """
    values = worth(weights)
    prompts = values.shape[1]
    if prompts < 2:
        raise ValueError("a λ is chosen on some prompts and measured on others: two are the least")
    space = Space(points)
    means = values.mean(axis=1)
    shares = space.best(means)
    counts = resample_counts(prompts, seed=how["seed"], resamples=how["resamples"])
    if drawn is None:
        resampled = counts @ values.T / prompts
    else:
        resampled = np.stack([worth(own) @ count / prompts for own, count in zip(drawn, counts, strict=False)])
    chosen = np.array([space.best(row) for row in resampled])
    return Served(
        shares=shares,
        intervals=tuple(percentiles(shares[k], chosen[:, k], prompts, how["confidence"]) for k in range(len(shares))),
        measured=space.points[int(means.argmax())],
        worth=float(space.at(shares, int(means.argmax())) @ means),
        plain=float(space.at(weights) @ means),
        gain=bootstrap_mean(_gains(space, values, weights, how["seed"]), **how),
    )


def _gains(space: Space, values: Array, weights: Shares, seed: int) -> Array:
    """(N,) of each prompt: what it gains by the λ that others chose."""
    prompts = values.shape[1]
    half = np.random.default_rng(seed).permutation(prompts) % 2
    plain, gains = space.at(weights), np.empty(prompts)
    for one in (0, 1):
        means = values[:, half != one].mean(axis=1)
        chosen = space.at(space.best(means), int(means.argmax()))
        gains[half == one] = (chosen - plain) @ values[:, half == one]
    return gains


class Space:
    """The simplex between the points of a grid, and the interpolation on it."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = list(points)
        self.steps = sum(self.points[0])
        self._at = np.array(self.points, dtype=float)  # (P, K)
        self._fits: dict[int, tuple[NDArray[np.intp], Array]] = {}

    def at(self, shares: Shares, centre: int | None = None) -> Array:
        """(P,) by which what was measured at the points is multiplied and summed, for its value at `shares`: by the
        quadratic around the point `centre`, else around that to which the shares are rounded."""
        if centre is None:
            centre = self.points.index(rounded(shares, self.steps))
        near, fit = self._fit(centre)
        terms = _terms(np.asarray(shares)[None] * self.steps - self._at[centre], full=len(fit) > self._at.shape[1] - 1)
        found = np.zeros(len(self.points))
        found[near] = terms[0] @ fit
        found[centre] += 1 - found[near].sum()
        return found

    def best(self, means: Array) -> Shares:
        """Shares of most value, of `means` (P,) at the points: within half a step of the best point.

        There the quadratic is followed where it is concave; a convex one is no reason to leave what was measured.
        """
        centre = int(means.argmax())
        near, fit = self._fit(centre)
        width = self._at.shape[1] - 1
        slopes = fit @ (means[near] - means[centre])
        curve = np.zeros((width, width))
        for value, (i, j) in zip(slopes[width:], combinations_with_replacement(range(width), 2), strict=False):
            curve[i, j] += value
            curve[j, i] += value
        place = self._at[centre]
        if len(slopes) > width and np.linalg.eigvalsh(curve).max() < _FLAT:
            place = place + _climb(slopes[:width], curve, place)
        return tuple((place / self.steps).tolist())

    def _fit(self, centre: int) -> tuple[NDArray[np.intp], Array]:
        """The neighbours (M,) of a point, and the map (terms, M) from their values over its to the terms' factors."""
        if centre not in self._fits:
            away = self._at - self._at[centre]
            near = np.flatnonzero((np.abs(away).max(axis=1) <= REACH) & (np.abs(away).max(axis=1) > 0))
            terms = _terms(away[near], full=True)
            if np.linalg.matrix_rank(terms) < terms.shape[1]:  # one step alone: a plane through the corners
                terms = _terms(away[near], full=False)
            self._fits[centre] = near, np.asarray(np.linalg.pinv(terms), dtype=np.float64)
        return self._fits[centre]


def _terms(away: Array, full: bool) -> Array:
    """(M, terms) of `away` (M, K), steps from a point: the first K - 1 of them, and `full`, their products."""
    x = away[:, :-1]
    products = [x[:, i] * x[:, j] for i, j in combinations_with_replacement(range(x.shape[1]), 2)]
    return np.column_stack([x, *products]) if full else x


def _climb(slope: Array, curve: Array, place: Array) -> Array:
    """(K,) the way from `place` to the top of a concave slope·x + x·curve·x / 2 over its first K - 1 coordinates,
    within half a step and the simplex: moves of weight from one objective to another, halved until none is up."""
    unit = np.eye(len(place))
    ways = [unit[i] - unit[j] for i, j in permutations(range(len(place)), 2)]

    def height(x: Array) -> float:
        return float(slope @ x[:-1] + x[:-1] @ curve @ x[:-1] / 2)

    gone, reached = np.zeros(len(place)), 0.0
    for halving in range(1, _HALVINGS + 1):
        moved = True
        while moved:
            moved = False
            for way in ways:
                tried = gone + way / 2**halving
                if np.abs(tried).max() > 0.5 or (place + tried).min() < 0:
                    continue
                if (value := height(tried)) > reached + _FLAT * 2.0**-halving:
                    gone, reached, moved = tried, value, True
    return gone
