"""The tables of an evaluation, put together from scores, answers and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import torch

from morlaif.evaluation import pareto, tradeoffs
from morlaif.evaluation.ablation import Ceiling, ablation
from morlaif.evaluation.judges import Score
from morlaif.evaluation.objectives import as_function, for_subsets, restandardized, variants
from morlaif.evaluation.pairs import Standard, accuracies, objective_gap, single_principle
from morlaif.evaluation.policies import Answered
from morlaif.evaluation.results import SFT, Ablation, Accuracies, Bench, Estimate, Front, Losses, Pareto, Signs
from morlaif.evaluation.rewardbench import BenchRow, evaluate_bench
from morlaif.evaluation.settings import EvalSettings
from morlaif.evaluation.wins import Contest, Two
from morlaif.naming import labelled_by
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.statistics import Array, Resampling, accuracy, bootstrap_mean


@dataclass(frozen=True)
class Scored:
    """The preference models of a run and the objectives that are made of them alone."""

    names: Sequence[str]  # of the models, columns of all scores
    principles: Sequence[str]  # of the run, columns of all true scores
    objectives: Mapping[str, Objective]  # by arm
    combined: Objective | None  # that of the arm whose reward has a part for each principle

    @property
    def whole(self) -> list[str]:
        """Models of no single principle."""
        return [name for name in self.names if labelled_by(name) not in self.principles]

    @property
    def parts(self) -> list[str]:
        """Models of one principle each that no arm has to itself; all models where there is none."""
        return [name for name in self.names if name in self.principles] or list(self.names)

    def columns(self, names: Sequence[str]) -> list[int]:
        return [list(self.names).index(name) for name in names]


@dataclass(frozen=True)
class OtherObjectives:
    """What else could have been made of the same models."""

    single_principle: dict[str, Accuracies]
    scalarizer_accuracy: dict[str, Accuracies]
    scalarizer_ceiling: dict[str, Accuracies]
    ablation: Ablation | None


def of_models(
    models: Scored,
    kinds: Mapping[str, Standard],
    scalarizer: ScalarizerSettings,
    settings: EvalSettings,
    seed: int,
) -> OtherObjectives:
    """Accuracy of each model alone, under every scalarizer, and with fewer principles: of `models.combined`."""
    combined, confidence = models.combined, settings.confidence
    if combined is None:
        return OtherObjectives(single_principle(models.names, {}, kinds, confidence), {}, {}, None)
    directions = dict(zip(combined.names, combined.direction.tolist(), strict=True))
    reached, ceilings = {}, {}
    for name, objective in variants(combined, settings.scalarizers).items():
        reached[name] = accuracies(objective_gap(as_function(objective, models.names)), kinds, confidence)
        best = {kind: Ceiling(objective, standard) for kind, standard in kinds.items()}
        ceilings[name] = {
            kind: Estimate.of(accuracy(ceiling(combined.names), confidence))
            for kind, ceiling in best.items()
            if ceiling.exists
        }
    used, function = for_subsets(scalarizer, combined.active)
    fewer = ablation(
        replace(combined, scalarizer=function),
        kinds,
        order=models.principles,
        subsets=settings.ablation_subsets,
        seed=seed,
        resamples=settings.resamples,
        confidence=confidence,
    )
    return OtherObjectives(
        single_principle(models.names, directions, kinds, confidence),
        reached,
        ceilings,
        fewer and replace(fewer, scalarizer=used),
    )


def of_bench(rows: Sequence[BenchRow], models: Scored, score: Score, settings: EvalSettings) -> Bench:
    """Every model, the arms' objectives and the other scalarizers on a benchmark."""
    every = dict(models.objectives)
    if models.combined is not None:
        every |= variants(models.combined, settings.scalarizers)
    functions = {name: as_function(objective, models.names) for name, objective in every.items()}
    return evaluate_bench(rows, models.names, score, functions, settings.confidence)


@dataclass(frozen=True)
class Moves:
    """What each policy gained and gave up against SFT."""

    score_change: dict[str, dict[str, Estimate]]
    true_change: dict[str, dict[str, Estimate]] | None
    utility_change: dict[str, Estimate] | None
    sacrificed: Losses
    hacking: dict[str, Signs]
    pareto: Pareto


def of_policies(
    answers: Mapping[str, Answered],
    models: Scored,
    found: Mapping[Two, Contest],
    kl: Mapping[str, float | None],
    reference: float,
    **how: Unpack[Resampling],
) -> Moves:
    """By the models, and by the known truth where there is one."""
    sft, others = answers[SFT], {name: one for name, one in answers.items() if name != SFT}
    columns, principles = models.columns(models.parts), models.principles
    lost = {
        policy: tradeoffs.sacrificed(models.parts, sft.scores[:, columns], one.scores[:, columns], **how)
        for policy, one in others.items()
    }
    moved = {p: tradeoffs.changes(models.names, sft.scores, one.scores, **how) for p, one in others.items()}
    truly = truly_lost = None
    if sft.true is not None:
        true = {policy: one.true for policy, one in others.items() if one.true is not None}
        truly = {policy: tradeoffs.changes(principles, sft.true, own, **how) for policy, own in true.items()}
        truly_lost = {policy: tradeoffs.sacrificed(principles, sft.true, own, **how) for policy, own in true.items()}
    signs = {
        policy: _signs(policy, sft, one, models, found, kl, moved[policy], truly[policy] if truly else None, how)
        for policy, one in others.items()
    }
    utility = None
    if sft.utility is not None:
        gained = {policy: one.utility - sft.utility for policy, one in others.items() if one.utility is not None}
        utility = {policy: Estimate.of(bootstrap_mean(gain, **how)) for policy, gain in gained.items()}
    return Moves(moved, truly, utility, Losses(lost, truly_lost), signs, _pareto(answers, models, reference))


def _signs(
    policy: str,
    sft: Answered,
    one: Answered,
    models: Scored,
    found: Mapping[Two, Contest],
    kl: Mapping[str, float | None],
    moved: Mapping[str, Estimate],
    truly: Mapping[str, Estimate] | None,
    how: Resampling,
) -> Signs:
    """Signs of reward hacking for one policy; see `tradeoffs.hacking`."""
    rows = len(sft.scores)
    true = dict(truly or {})
    gap = worth = None
    if sft.true is not None and one.true is not None and sft.utility is not None and one.utility is not None:
        gap, worth = one.true[:rows] - sft.true[:rows], one.utility[:rows] - sft.utility[:rows]
        for name in models.whole:  # its truth is what people want, all in all
            true |= tradeoffs.changes([name], sft.utility[:, None], one.utility[:, None], **how)
    objective = models.objectives.get(policy)
    gain = by_models = truth = None
    if objective is not None:
        value = as_function(objective, models.names)
        gain = bootstrap_mean(value(one.scores) - value(sft.scores), **how)
        if gap is not None and worth is not None:
            by_models = (one.scores - sft.scores)[:, models.columns(objective.columns)]
            truth = np.stack([_own_truth(gap, worth, name, models) for name in objective.names], axis=1)
    against = found.get((policy, SFT))
    return tradeoffs.hacking(
        moved, true or None, against.rate if against else None, objective=gain, model_gap=by_models, true_gap=truth,
        lengths=(sft.responses.lengths, one.responses.lengths), kl=kl.get(policy), **how,
    )  # fmt: skip


def _own_truth(gap: Array, worth: Array, name: str, models: Scored) -> Array:
    """(N,) of the principles' true changes `gap` (N, P), that of `name`; of a whole, the utility's, `worth`."""
    return gap[:, list(models.principles).index(name)] if name in models.principles else worth


def _pareto(answers: Mapping[str, Answered], models: Scored, reference: float) -> Pareto:
    """By the models, in deviations frozen before PPO, and by the known truth, in deviations of SFT's answers."""
    sft = answers[SFT]
    truth = None
    if sft.true is not None and len(models.principles) > 1:
        spread = np.where(sft.true.std(axis=0) > 0, sft.true.std(axis=0), 1.0)
        points = {
            policy: ((one.true.mean(axis=0) - sft.true.mean(axis=0)) / spread).tolist()
            for policy, one in answers.items()
            if one.true is not None
        }
        truth = pareto.multi_objective_view(models.principles, points, reference)
    return Pareto(_by_models(answers, models, reference), truth)


def _by_models(answers: Mapping[str, Answered], models: Scored, reference: float) -> Front | None:
    objective = models.combined
    if objective is None or len(objective.names) < 2:
        return None
    columns = models.columns(objective.columns)
    if objective.normalizer == "none":  # raw scores have no common unit: they get that of SFT's answers
        objective = restandardized(objective, answers[SFT].scores[:, columns])
    points = {policy: _normalized(objective, one.scores[:, columns]) for policy, one in answers.items()}
    return pareto.multi_objective_view(objective.names, points, reference)


def _normalized(objective: Objective, scores: Array) -> list[float]:
    """Mean normalised score of each principle, turned so that more is better."""
    found: list[float] = (objective.standardize(torch.from_numpy(scores)) * objective.direction).mean(dim=0).tolist()
    return found
