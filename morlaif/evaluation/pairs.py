"""What held-out pairs tell about preference models and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from morlaif.data.records import Pair
from morlaif.evaluation.judges import Score, side, true_scores
from morlaif.evaluation.preferences import calibration, pair_accuracy
from morlaif.evaluation.statistics import Array, correlation

SINGLE = "single"


@dataclass(frozen=True)
class ScoredPairs:
    """N held-out pairs, their labels and the scores of K preference models."""

    names: tuple[str, ...]  # the K models
    first: Array  # (N, K) raw scores of the first response
    second: Array  # (N, K)
    labels: Array  # (N, K) each model's own kind of label: probability that the first is better; NaN without one
    human: Array  # (N,) human probability that the first is better; NaN where unknown
    principles: tuple[str, ...] | None  # those of the known truth, where there is one
    true_gap: Array | None  # (N, P) true score of the first minus that of the second

    @property
    def gap(self) -> Array:
        return self.first - self.second


def score_pairs(
    pairs: Sequence[Pair],
    names: Sequence[str],
    score: Score,
    labels: Array,
    truth: Mapping[str, Sequence[str]] | None,
) -> ScoredPairs:
    """`score` gives (N, K) for the models `names`; `truth` names the toy principles that each principle covers."""
    messages, first, second = ([getattr(p, side) for p in pairs] for side in ("messages", "first", "second"))
    true_gap = true_scores(messages, first, truth) - true_scores(messages, second, truth) if truth else None
    human = np.array([np.nan if pair.human is None else pair.human for pair in pairs], dtype=float)
    principles = tuple(truth) if truth else None
    return ScoredPairs(
        tuple(names), score(messages, first), score(messages, second), labels, human, principles, true_gap
    )


def truth_accuracy(pairs: ScoredPairs, confidence: float) -> dict[str, Any]:
    """How often each model orders a pair as the truth of its principle does; for the baseline, as their mean does."""
    if pairs.true_gap is None:
        return {}
    target = {name: pairs.true_gap[:, k] for k, name in enumerate(pairs.principles)}
    target[SINGLE] = pairs.true_gap.mean(axis=1)
    return {
        name: pair_accuracy(pairs.gap[:, k], side(target[name]), confidence).as_dict()
        for k, name in enumerate(pairs.names)
        if name in target
    }


def objective_accuracy(
    pairs: ScoredPairs, human: ScoredPairs, objectives: Mapping[str, Callable[[Array], Array]], confidence: float
) -> dict[str, Any]:
    """Accuracy of each objective, (N, K) scores -> (N,): on the human labels of `human`, and on the truth of `pairs`.

    The truth of a pair is the mean over principles. "ceiling" is what that mean itself reaches: on human labels, what
    knowing the principles, equally weighed, gives.
    """
    standards = {"human": (human, human.human)}
    if pairs.true_gap is not None:
        standards["truth"] = (pairs, side(pairs.true_gap.mean(axis=1)))
        objectives = {**objectives, "ceiling": None}

    def gap(scored: ScoredPairs, objective: Callable[[Array], Array] | None) -> Array:
        if objective is None:
            return scored.true_gap.mean(axis=1)
        return objective(scored.first) - objective(scored.second)

    return {
        name: {
            kind: pair_accuracy(gap(scored, objective), target, confidence).as_dict()
            for kind, (scored, target) in standards.items()
        }
        for name, objective in objectives.items()
    }


def correlations(pairs: ScoredPairs) -> dict[str, Any]:
    """Pearson correlations over the pairs: of the labels, of the models' score differences, and of the true ones."""
    return {
        "names": list(pairs.names),
        "labels": _json(correlation(pairs.labels)),
        "scores": _json(correlation(pairs.gap)),
        "truth": _json(correlation(pairs.true_gap)) if pairs.true_gap is not None else None,
    }


def calibrations(pairs: ScoredPairs) -> dict[str, Any]:
    return {name: calibration(pairs.gap[:, k], pairs.labels[:, k]) for k, name in enumerate(pairs.names)}


def _json(matrix: Array) -> list[list[float | None]]:
    return [[None if np.isnan(x) else round(float(x), 4) for x in row] for row in matrix]
