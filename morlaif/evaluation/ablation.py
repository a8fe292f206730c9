"""Accuracy against the number of principles, from preference models that are trained already.

Three ways to leave principles out: the first so many in the run's order (the paper's nested one), random subsets of
each size, and one at a time. Weights are those of the whole set; a regression on fewer principles could give others.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import logit

from morlaif.evaluation.objectives import as_function, restandardized
from morlaif.evaluation.pairs import Standard
from morlaif.evaluation.preferences import agreement
from morlaif.evaluation.results import Ablation, Accuracies, Estimate, LeftOut, Nested, SampledSubsets
from morlaif.scalarize.objective import Objective
from morlaif.statistics import Array, Interval, Resampling, accuracy, bootstrap_crossed, bootstrap_mean

SURE = 0.99  # the most sure that a label is taken to be in place of a score


@dataclass
class Correctness:
    """Whether the objective over a subset of the models orders each pair as the standard does."""

    objective: Objective
    standard: Standard
    known: dict[tuple[str, ...], Array] = field(default_factory=dict)

    def __call__(self, subset: Sequence[str]) -> Array:
        """(N,) 1, ½ or 0; NaN where the standard decides nothing."""
        subset = tuple(subset)
        if subset not in self.known:
            pairs = self.standard.pairs
            value = as_function(self.objective.select(subset), pairs.names)
            self.known[subset] = agreement(value(pairs.first) - value(pairs.second), self.standard.target)
        return self.known[subset]


@dataclass
class Ceiling(Correctness):
    """The same with perfect scores in place of the models': the true ones, or else what the AI labels say.

    A label counts as its log-odds, half for the first response and half against the second.
    """

    def __call__(self, subset: Sequence[str]) -> Array:
        subset = tuple(subset)
        if subset not in self.known:
            first, second = self._scores(subset)
            value = as_function(restandardized(self.objective.select(subset), first, second), subset)
            unknown = np.isnan(first).any(axis=1)
            gap = np.where(unknown, 0.0, value(np.nan_to_num(first)) - value(np.nan_to_num(second)))
            self.known[subset] = agreement(gap, np.where(unknown, np.nan, self.standard.target))
        return self.known[subset]

    def _scores(self, subset: Sequence[str]) -> tuple[Array, Array]:
        pairs = self.standard.pairs
        if pairs.principles is not None and pairs.true_first is not None and pairs.true_second is not None:
            columns = [pairs.principles.index(name) for name in subset]
            return pairs.true_first[:, columns], pairs.true_second[:, columns]
        labels = pairs.labels[:, [pairs.names.index(name) for name in self.objective.select(subset).columns]]
        half = logit(np.clip(labels, 1 - SURE, SURE)) / 2
        return half, -half

    @property
    def exists(self) -> bool:
        return self.standard.pairs.true_first is not None or not np.isnan(self.standard.pairs.labels).all()


def ablation(
    objective: Objective,
    kinds: Mapping[str, Standard],
    *,
    order: Sequence[str],
    subsets: int,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Ablation | None:
    """The tables; None with fewer than two principles that count. `subsets`: random ones of each size, or all if fewer.

    The intervals of random subsets hold both samples, that of the pairs and that of the subsets.
    """
    names = [name for name in order if name in objective.active]
    if len(names) < 2:
        return None
    models = {kind: Correctness(objective, standard) for kind, standard in kinds.items()}
    ceilings = {kind: ceiling for kind, s in kinds.items() if (ceiling := Ceiling(objective, s)).exists}
    how = Resampling(seed=seed, resamples=resamples, confidence=confidence)

    def over(chosen: Sequence[Sequence[str]]) -> tuple[Accuracies, Accuracies]:
        """Accuracy and ceiling over the subsets `chosen`."""

        def of(right: Correctness) -> Interval:
            if len(chosen) == 1:
                return accuracy(right(chosen[0]), confidence)
            return bootstrap_crossed(np.stack([right(s) for s in chosen], axis=1), **how)

        return (
            {kind: Estimate.of(of(right)) for kind, right in models.items()},
            {kind: Estimate.of(of(right)) for kind, right in ceilings.items()},
        )

    def without(name: str) -> LeftOut:
        rest = [other for other in names if other != name]
        change = {kind: bootstrap_mean(right(rest) - right(names), **how) for kind, right in models.items()}
        return LeftOut(name, *over([rest]), {kind: Estimate.of(one) for kind, one in change.items()})

    counts = range(1, len(names) + 1)
    drawn = {n: draw_subsets(names, n, subsets, seed) for n in counts}
    return Ablation(
        names,
        ceiling_of="truth" if next(iter(kinds.values())).pairs.true_first is not None else "labels",
        nested=[Nested(n, names[:n], *over([names[:n]])) for n in counts],
        random=[SampledSubsets(n, len(chosen), *over(chosen)) for n, chosen in drawn.items()],
        leave_one_out=[without(name) for name in names],
    )


def draw_subsets(names: Sequence[str], count: int, most: int, seed: int) -> list[tuple[str, ...]]:
    """`most` different subsets of `count` names, or all there are; each in the order of `names`."""
    if math.comb(len(names), count) <= most:
        return list(itertools.combinations(names, count))
    rng = random.Random(f"{seed}/{count}")
    found: dict[tuple[str, ...], None] = {}
    while len(found) < most:
        chosen = set(rng.sample(list(names), count))
        found[tuple(name for name in names if name in chosen)] = None
    return list(found)
