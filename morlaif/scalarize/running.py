"""Running mean and deviation of each principle's raw scores, as a state that JSON can hold.

    {"count": n, "mean": {principle: …}, "squares": {principle: …}}    squares: Σ (x - mean)²

Batches are merged exactly (Chan et al. 1979), in float64: the result is that of one pass over all the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from morlaif.scalarize.registry import State


def start(names: Sequence[str], mean: Tensor, scale: Tensor, count: int) -> State:
    """As if `count` scores of this mean and deviation (K,) had been seen; 0 begins with nothing."""
    squares = scale.double().square() * count
    return {
        "count": count,
        "mean": dict(zip(names, mean.double().tolist(), strict=True)),
        "squares": dict(zip(names, squares.tolist(), strict=True)),
    }


def update(state: State, names: Sequence[str], scores: Tensor) -> State:
    """The moments once `scores` (B, K) were seen too; the state given stays as it is."""
    values = scores.double().cpu()
    here = values.mean(0)
    squares = (values - here).square().sum(0)
    before, count = state["count"], state["count"] + len(values)
    mean, old = _columns(state["mean"], names), _columns(state["squares"], names)
    shift = here - mean
    return {
        "count": count,
        "mean": dict(zip(names, (mean + shift * len(values) / count).tolist(), strict=True)),
        "squares": dict(
            zip(names, (old + squares + shift.square() * before * len(values) / count).tolist(), strict=True)
        ),
    }


def statistics(state: State, names: Sequence[str], mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (divisor n) of all that was seen; where nothing varies yet, those given."""
    if not state["count"]:
        return mean, scale
    deviation = (_columns(state["squares"], names) / state["count"]).sqrt()
    return _columns(state["mean"], names), torch.where(deviation > 1e-8, deviation, scale.double())


def _columns(values: dict[str, float], names: Sequence[str]) -> Tensor:
    return torch.tensor([values[name] for name in names], dtype=torch.float64)
