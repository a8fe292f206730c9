"""Fronts made up of values by prompt, as a unit of the stage leaves them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from morlaif.evaluation import fronts
from morlaif.evaluation.results import Estimate, Rate

HOW = {"seed": 0, "resamples": 200, "confidence": 0.95}


def way(values: np.ndarray, weights: np.ndarray, name: str, episodes: int = 100) -> fronts.WayFront:
    """values: (P, N, K); weights: (P, K)."""
    objectives = {f"p{k}": [f"p{k}"] for k in range(values.shape[2])}
    nothing = Estimate(None, None, None, 0)
    points = [
        fronts.FrontPoint(
            name=f"{k}", weights=dict(zip(objectives, map(float, w), strict=True)),
            place={o: replace(nothing, value=float(v)) for o, v in zip(objectives, values[k].mean(0), strict=True)},
            models=dict.fromkeys(objectives, 0.0), truth=None,
            win_rate=Rate(0.5, 0.4, 0.6, 9, 0.5, 0.0, 0.5, 0.0, 0), tokens=9.0, ended=1.0, dominated=False,
            above_chord=None,
        )
        for k, w in enumerate(weights)
    ]  # fmt: skip
    cost = fronts.FrontCost(len(points), episodes, 1.0)
    made = fronts.WayFront(name, objectives, "truth", -2.0, points, {}, nothing, None, None, cost, values.shape[1], "x")
    return fronts.front_of(made, values, weights, **HOW)


def values_of(means: list[list[float]], prompts: int = 40, noise: float = 0.3) -> np.ndarray:
    """(P, N, K) whose means over prompts are `means`."""
    drawn = np.random.default_rng(0).normal(0, noise, (prompts, len(means[0])))
    return np.array(means)[:, None] + (drawn - drawn.mean(axis=0))
