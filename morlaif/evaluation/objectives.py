"""Objectives as functions of arrays, and the same objective over other columns, statistics or scalarizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from morlaif.errors import UserError
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import Scalarizer, resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.statistics import Array

LINEAR = ScalarizerSettings(name="linear", function="morlaif.scalarize.functions.linear", params={})


def as_function(objective: Objective, names: Sequence[str]) -> Callable[[Array], Array]:
    """(N, K) scores, columns in the order of `names`, -> (N,)."""
    columns = [list(names).index(name) for name in objective.columns]
    return lambda scores: objective(torch.from_numpy(scores[:, columns])).double().numpy()


def restandardized(objective: Objective, *scores: Array) -> Objective:
    """The objective for scores in another unit, such as true ones: their own mean and deviation, its weights.

    `scores` (N, K) are in the order of the objective's names. A column that never varies is left in its unit.
    """
    x = np.concatenate(scores)
    spread = np.nanstd(x, axis=0) if len(x) else np.ones(x.shape[1])
    mean = np.nanmean(x, axis=0) if len(x) else np.zeros(x.shape[1])
    scale = np.where(np.nan_to_num(spread) > 1e-8, spread, 1.0)
    return replace(objective, models=(), mean=torch.tensor(np.nan_to_num(mean)), scale=torch.tensor(scale))


def variants(objective: Objective, settings: Mapping[str, ScalarizerSettings]) -> dict[str, Objective]:
    """The same models, statistics and weights under each of these scalarizers; one that names a principle which the
    objective does not have is left out."""
    made = {}
    for name, one in settings.items():
        scalarizer = resolve(one)  # whatever else is wrong with it was an error before the run
        try:
            scalarizer.check(objective.active)
        except UserError:
            continue
        made[name] = replace(objective, scalarizer=scalarizer)
    return made


def for_subsets(settings: ScalarizerSettings, names: Sequence[str]) -> tuple[str, Scalarizer]:
    """The scalarizer, if it can do with any of the principles `names` and learns nothing in training; else the linear
    one. With its name."""
    try:
        for name in names:
            made = resolve(settings, [name])
    except UserError:
        return LINEAR.name, resolve(LINEAR)
    return (LINEAR.name, resolve(LINEAR)) if made.stateful else (settings.name, made)
