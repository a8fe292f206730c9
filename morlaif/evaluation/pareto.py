"""Policies as points, one coordinate a principle, more is better: who is beaten throughout, how much is covered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from morlaif.evaluation.results import Front
from morlaif.statistics import Array


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """(P,) whether no other of the `points` (P, K) is at least as good in every coordinate and better in one."""
    x = np.asarray(points, dtype=float)
    at_least, better = (x[:, None] >= x).all(-1), (x[:, None] > x).any(-1)
    dominated: NDArray[np.bool_] = np.asarray((at_least & better).any(axis=0))
    return ~dominated


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what `points` (P, K) dominate above `reference` (K,); a point not above it in every coordinate adds
    nothing.

    Exact, by what each point adds to those after it (While, Bradstreet and Barone 2012).
    """
    above = np.asarray(points, dtype=float) - np.asarray(reference, dtype=float)
    return _volume(above[(above > 0).all(axis=1)])


def _volume(edges: Array) -> float:
    edges = np.unique(edges[non_dominated(edges)], axis=0)
    if len(edges) < 2:
        return float(edges.prod(axis=1).sum())
    return sum(float(edge.prod()) - _volume(np.minimum(edges[i + 1 :], edge)) for i, edge in enumerate(edges))


def fronts(names: Sequence[str], points: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """For every two principles "a|b" the policies on their Pareto front, best in a first."""
    policies, x = list(points), np.array(list(points.values()), dtype=float)
    found = {}
    for i, j in itertools.combinations(range(len(names)), 2):
        kept = np.flatnonzero(non_dominated(x[:, [i, j]]))
        found[f"{names[i]}|{names[j]}"] = [policies[k] for k in sorted(kept, key=lambda k: -x[k, i])]
    return found


def multi_objective_view(names: Sequence[str], points: Mapping[str, Sequence[float]], reference: float) -> Front:
    """The tables of a comparison: `points` are mean normalised scores of each policy, (K,) in the order of `names`.

    The reference point is the same number for every principle and every run, so that volumes of different runs can be
    compared. `relative` is the edge of the cube of equal volume over that of a policy at zero, the SFT policy's mean:
    1 as good as SFT, whatever K; it falls to 0 where a principle falls to the reference.
    """
    corner = np.full(len(names), reference)
    own = {policy: hypervolume([point], corner) for policy, point in points.items()}
    everyone = hypervolume(list(points.values()), corner)
    return Front(
        list(names),
        points={policy: [float(x) for x in point] for policy, point in points.items()},
        front=[p for p, kept in zip(points, non_dominated(list(points.values())), strict=True) if kept],
        fronts=fronts(names, points),
        reference=corner.tolist(),
        hypervolume=own,
        relative={policy: volume ** (1 / len(names)) / -reference for policy, volume in own.items()},
        together=everyone,
        added={
            policy: everyone - hypervolume([p for other, p in points.items() if other != policy], corner)
            for policy in points
        },
    )
