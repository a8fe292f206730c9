"""What the best of k samples is worth for k = 1, 2, 4, … n, chosen by each of several objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from morlaif.online.best_of import chosen, kl_bound, sizes
from morlaif.scalarize.objective import Objective
from morlaif.statistics import Array, bootstrap_mean

BY_N = "by_n.json"
OWN = "own"  # the objective of the arm itself


def curves(
    scores: Array, objective: Objective, others: Mapping[str, Objective], worth: Array | None, *, seed: int
) -> dict[str, Any]:
    """For each objective, at each size, gains over one sample with their intervals over prompts: of the hidden utility
    where it is known, of the arm's own objective, of the mean over principles and of the principle that gained least
    (both in deviations of the SFT policy's responses).

    Args:
        scores: (P, n, K) raw, columns in the order of `objective.names`.
        others: objectives over the same columns.
        worth: (P, n) hidden utilities.
    """
    prompts, n, columns = scores.shape
    flat = torch.from_numpy(scores.reshape(prompts * n, columns))
    normal = (objective.standardize(flat) * objective.direction).numpy().reshape(scores.shape)
    counted = (objective.weight > 0).numpy()
    measures = {"objective": _values(objective, scores)} | ({} if worth is None else {"utility": worth})
    found: dict[str, Any] = {}
    for name, one in {OWN: objective, **others}.items():
        values = _values(one, scores)
        rows = []
        for k in sizes(n):
            gained = chosen(values, k) - 1 / n  # a single sample is any of them
            row: dict[str, Any] = {
                measure: bootstrap_mean((gained * own).sum(axis=1), seed=seed).as_dict()
                for measure, own in measures.items()
            }
            parts = (gained[:, :, None] * normal).sum(axis=1)[:, counted]  # (P, K')
            row["mean"] = bootstrap_mean(parts.mean(axis=1), seed=seed).as_dict()
            row["principles"] = dict(zip(objective.active, parts.mean(axis=0).tolist(), strict=True))
            row["lowest"] = min(row["principles"].values())
            rows.append({"n": k, "kl_bound": kl_bound(k)} | row)
        found[name] = rows
    return {
        "n": n,
        "prompts": prompts,
        "one": {m: float(own.mean()) for m, own in measures.items()},
        "objectives": found,
    }


def _values(objective: Objective, scores: Array) -> Array:
    """(P, n, K) -> (P, n)."""
    prompts, n, columns = scores.shape
    made: Array = (
        objective(torch.from_numpy(np.ascontiguousarray(scores.reshape(prompts * n, columns))))
        .double()
        .numpy()
        .reshape(prompts, n)
    )
    return made
