"""What held-out pairs show of preference models and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from morlaif.data.records import Pair
from morlaif.evaluation.judges import Score, side, true_scores, utilities
from morlaif.evaluation.preferences import calibration, pair_accuracy, with_ties
from morlaif.evaluation.results import (
    CEILING,
    Accuracies,
    Calibration,
    Correlations,
    CrossAccuracy,
    Estimate,
    Matrix,
    TieAccuracy,
)
from morlaif.naming import labelled_by
from morlaif.statistics import Array, accuracy, correlation

Gap = Callable[["ScoredPairs"], Array]  # score of the first minus that of the second, (N,)


@dataclass(frozen=True)
class ScoredPairs:
    """N held-out pairs, their labels and the scores of K preference models."""

    names: tuple[str, ...]  # the K models
    first: Array  # (N, K) raw scores of the first response
    second: Array  # (N, K)
    labels: Array  # (N, K) each model's own kind of label: probability that the first is better; NaN without one
    human: Array  # (N,) human probability that the first is better; NaN where unknown
    longer: Array  # (N,) characters of the first minus those of the second
    principles: tuple[str, ...] | None  # those of the known truth, where there is one
    true_first: Array | None  # (N, P) true scores of the first response
    true_second: Array | None
    utility_gap: Array | None = None  # (N,) hidden human utility of the first less that of the second
    whole: tuple[str, ...] = ()  # models of no single principle: the truth of one is the utility
    own: tuple[str, ...] = ()  # models of a principle that one arm has to itself

    @property
    def gap(self) -> Array:
        return self.first - self.second

    @property
    def true_gap(self) -> Array | None:
        return None if self.true_first is None or self.true_second is None else self.true_first - self.true_second

    @property
    def mean_true_gap(self) -> Array | None:
        """(N,) over the principles."""
        return None if (gap := self.true_gap) is None else gap.mean(axis=1)

    @property
    def of_principles(self) -> list[int]:
        """Columns of the models of one principle each that all arms share; else of all models."""
        apart = {*self.whole, *self.own}
        return [k for k, name in enumerate(self.names) if name not in apart] or list(range(len(self.names)))


def score_pairs(
    pairs: Sequence[Pair],
    names: Sequence[str],
    score: Score,
    labels: Array,
    truth: Mapping[str, Sequence[str]] | None,
    whole: Sequence[str] = (),
    own: Sequence[str] = (),
) -> ScoredPairs:
    """`score` gives (N, K) for the models `names`; `truth` names the toy principles that each principle covers."""
    messages, first, second = ([getattr(p, side) for p in pairs] for side in ("messages", "first", "second"))
    return ScoredPairs(
        tuple(names),
        score(messages, first),
        score(messages, second),
        labels,
        human=np.array([np.nan if pair.human is None else pair.human for pair in pairs], dtype=float),
        longer=np.array([len(pair.first) - len(pair.second) for pair in pairs], dtype=float),
        principles=tuple(truth) if truth else None,
        true_first=true_scores(messages, first, truth) if truth else None,
        true_second=true_scores(messages, second, truth) if truth else None,
        utility_gap=utilities(messages, first) - utilities(messages, second) if truth else None,
        whole=tuple(whole),
        own=tuple(own),
    )


@dataclass(frozen=True)
class Standard:
    """Which response of each pair is the better one, all in all."""

    pairs: ScoredPairs
    target: Array  # (N,) probability that the first is better; ½ undecided, NaN unknown


def standards(pairs: ScoredPairs, human: ScoredPairs) -> dict[str, Standard]:
    """By kind, those that there are: `human` (labels of people, on the pairs `human`), `truth` (the hidden utility)
    and `label` (the mean of the AI labels over the principles)."""
    found = {}
    if not np.isnan(human.human).all():
        found["human"] = Standard(human, human.human)
    if pairs.utility_gap is not None:
        found["truth"] = Standard(pairs, side(pairs.utility_gap))
    labels = pairs.labels[:, pairs.of_principles]
    known = ~np.isnan(labels)
    if known.any():
        mean = np.where(known, labels - 0.5, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        found["label"] = Standard(pairs, np.where(known.any(axis=1), 0.5 + mean, np.nan))
    return found


def accuracies(gap: Gap, kinds: Mapping[str, Standard], confidence: float) -> Accuracies:
    """Accuracy of one way to order a pair, by each standard."""
    return {
        kind: Estimate.of(pair_accuracy(gap(standard.pairs), standard.target, confidence))
        for kind, standard in kinds.items()
    }


def objective_gap(objective: Callable[[Array], Array]) -> Gap:
    """The difference that an objective, (N, K) raw scores -> (N,), makes between the two responses."""
    return lambda pairs: objective(pairs.first) - objective(pairs.second)


def objective_accuracy(
    objectives: Mapping[str, Callable[[Array], Array]], kinds: Mapping[str, Standard], confidence: float
) -> dict[str, Accuracies]:
    """Accuracy of each objective. "ceiling" is what the mean of the true scores itself reaches: on human labels, what
    knowing the principles, equally weighed, gives."""
    made = {name: accuracies(objective_gap(f), kinds, confidence) for name, f in objectives.items()}
    if any(standard.pairs.true_gap is not None for standard in kinds.values()):
        made[CEILING] = accuracies(_true_gap, kinds, confidence)
    return made


def _true_gap(pairs: ScoredPairs) -> Array:
    """NaN where the truth is not known."""
    return np.full(len(pairs.human), np.nan) if (gap := pairs.mean_true_gap) is None else gap


def single_principle(
    names: Sequence[str], directions: Mapping[str, float], kinds: Mapping[str, Standard], confidence: float
) -> dict[str, Accuracies]:
    """Accuracy of each model alone; where a weight has turned a principle round, so is its model."""
    signs = [directions.get(name, 1.0) for name in names]

    def turned(k: int) -> Gap:
        return lambda pairs: signs[k] * pairs.gap[:, k]

    return {name: accuracies(turned(k), kinds, confidence) for k, name in enumerate(names)}


def length_baseline(kinds: Mapping[str, Standard], confidence: float) -> Accuracies:
    """Accuracy of preferring the longer response; below ½, the shorter is the better guess."""
    return accuracies(lambda pairs: pairs.longer, kinds, confidence)


def truth_accuracy(pairs: ScoredPairs, confidence: float) -> dict[str, Estimate]:
    """How often each model orders a pair as the truth of its principle does; a model of the whole, as the utility."""
    gap = pairs.true_gap
    if gap is None or pairs.principles is None:
        return {}
    target = {name: gap[:, k] for k, name in enumerate(pairs.principles)}
    target |= {name: target[labelled_by(name)] for name in pairs.own}
    target |= dict.fromkeys(pairs.whole, gap.mean(axis=1) if pairs.utility_gap is None else pairs.utility_gap)
    return {
        name: Estimate.of(pair_accuracy(pairs.gap[:, k], side(target[name]), confidence))
        for k, name in enumerate(pairs.names)
        if name in target
    }


def tie_accuracy(pairs: ScoredPairs, confidence: float) -> dict[str, TieAccuracy]:
    """Each model on its own labels: without the pairs that the label leaves undecided, with them as ½, and their
    share."""
    made = {}
    for k, name in enumerate(pairs.names):
        every = accuracy(with_ties(pairs.gap[:, k], pairs.labels[:, k]), confidence)
        decided = pair_accuracy(pairs.gap[:, k], pairs.labels[:, k], confidence)
        tied = (every.n - decided.n) / every.n if every.n else None
        made[name] = TieAccuracy(Estimate.of(decided), Estimate.of(every), tied)
    return made


def cross_accuracy(pairs: ScoredPairs, confidence: float) -> CrossAccuracy:
    """Accuracy of model i (row) on the labels of principle j (column)."""
    cells = [
        [Estimate.of(pair_accuracy(pairs.gap[:, i], pairs.labels[:, j], confidence)) for j in range(len(pairs.names))]
        for i in range(len(pairs.names))
    ]
    return CrossAccuracy(
        list(pairs.names),
        list(pairs.names),
        value=[[cell.value for cell in row] for row in cells],
        low=[[cell.low for cell in row] for row in cells],
        high=[[cell.high for cell in row] for row in cells],
        n=[[cell.n for cell in row] for row in cells],
    )


def correlations(pairs: ScoredPairs) -> Correlations:
    """Pearson correlations over the pairs: of the labels, of the models' score differences, and of the true ones."""
    return Correlations(
        list(pairs.names),
        labels=_json(correlation(pairs.labels)),
        scores=_json(correlation(pairs.gap)),
        truth=_json(correlation(pairs.true_gap)) if pairs.true_gap is not None else None,
    )


def calibrations(pairs: ScoredPairs) -> dict[str, Calibration | None]:
    return {name: calibration(pairs.gap[:, k], pairs.labels[:, k]) for k, name in enumerate(pairs.names)}


def _json(matrix: Array) -> Matrix:
    return [[None if np.isnan(x) else round(float(x), 4) for x in row] for row in matrix]
