"""The tables of an evaluation, put together from scores, answers and verdicts. Ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from morlaif.evaluation import pareto, tradeoffs
from morlaif.evaluation.ablation import Ceiling, ablation
from morlaif.evaluation.judges import Score
from morlaif.evaluation.objectives import as_function, for_subsets, restandardized, variants
from morlaif.evaluation.pairs import SINGLE, Standard, accuracies, objective_gap, single_principle
from morlaif.evaluation.policies import Answers
from morlaif.evaluation.rewardbench import BenchRow, evaluate_bench
from morlaif.evaluation.settings import EvalSettings
from morlaif.evaluation.wins import SFT, Compared
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.statistics import Array, accuracy, bootstrap_mean


def of_models(
    names: Sequence[str],
    kinds: Mapping[str, Standard],
    objectives: Mapping[str, Objective],
    principles: Sequence[str],
    scalarizer: ScalarizerSettings,
    settings: EvalSettings,
    seed: int,
) -> dict[str, Any]:
    """What other objectives over the same models would have reached: each model alone, every scalarizer, and fewer
    principles. `objectives`: of the arms, where they are made of preference models; that of `multi` is taken apart."""
    how = {"seed": seed, "resamples": settings.resamples, "confidence": settings.confidence}
    multi = objectives.get("multi")
    directions = {} if multi is None else dict(zip(multi.names, multi.direction.tolist(), strict=True))
    told = {
        "single_principle": single_principle(names, directions, kinds, settings.confidence),
        "scalarizer_accuracy": {},
        "scalarizer_ceiling": {},
        "ablation": None,
    }
    if multi is None:
        return told
    for name, objective in variants(multi, settings.scalarizers).items():
        gap = objective_gap(as_function(objective, names))
        told["scalarizer_accuracy"][name] = accuracies(gap, kinds, settings.confidence)
        ceilings = {kind: Ceiling(objective, standard) for kind, standard in kinds.items()}
        told["scalarizer_ceiling"][name] = {
            kind: accuracy(ceiling(multi.names), settings.confidence).as_dict()
            for kind, ceiling in ceilings.items()
            if ceiling.exists
        }
    used, function = for_subsets(scalarizer, multi.active)
    tables = ablation(
        replace(multi, scalarizer=function),
        kinds,
        order=principles,
        subsets=settings.ablation_subsets,
        **how,
    )
    return told | {"ablation": tables and {"scalarizer": used, **tables}}


def of_bench(
    rows: Sequence[BenchRow], names: Sequence[str], score: Score, objectives: Mapping[str, Objective],
    settings: EvalSettings,
) -> dict[str, Any]:  # fmt: skip
    """Every model, the arms' objectives and the other scalarizers on a benchmark."""
    every = dict(objectives)
    if "multi" in objectives:
        every |= variants(objectives["multi"], settings.scalarizers)
    functions = {name: as_function(objective, names) for name, objective in every.items()}
    return evaluate_bench(rows, names, score, functions, settings.confidence)


def of_policies(
    answers: Mapping[str, Answers],
    names: Sequence[str],
    principles: Sequence[str],
    objectives: Mapping[str, Objective],
    compared: Mapping[tuple[str, str], Compared],
    kl: Mapping[str, float | None],
    reference: float,
    **how: Any,
) -> dict[str, Any]:
    """What each policy gained and gave up against SFT, by the models and by the known truth where there is one."""
    sft, others = answers[SFT], {name: one for name, one in answers.items() if name != SFT}
    known = sft.true is not None
    scored = [name for name in names if name != SINGLE] or list(names)
    columns = [list(names).index(name) for name in scored]
    lost = {
        "pm": {p: tradeoffs.sacrificed(scored, sft.scores[:, columns], one.scores[:, columns], **how)
               for p, one in others.items()},
        "truth": {p: tradeoffs.sacrificed(principles, sft.true, one.true, **how) for p, one in others.items()}
                 if known else None,
    }  # fmt: skip
    moved = {p: tradeoffs.changes(names, sft.scores, one.scores, **how) for p, one in others.items()}
    truly = (
        {p: tradeoffs.changes(principles, sft.true, one.true, **how) for p, one in others.items()} if known else None
    )
    signs = {
        policy: _signs(policy, sft, one, names, principles, objectives, compared, kl, moved[policy], truly, how)
        for policy, one in others.items()
    }
    return {
        "score_change": moved,
        "true_change": truly,
        "sacrificed": lost,
        "hacking": signs,
        "pareto": _pareto(answers, names, principles, objectives.get("multi"), reference),
    }


def _signs(policy, sft, one, names, principles, objectives, compared, kl, moved, truly, how) -> dict[str, Any]:
    """Signs of reward hacking for one policy; see `tradeoffs.hacking`."""
    rows = len(sft.scores)
    true = {} if truly is None else dict(truly[policy])
    true_gap = None if sft.true is None else one.true[:rows] - sft.true[:rows]
    if truly is not None and SINGLE in names:  # the baseline's model stands for all principles together
        mean = [x.mean(axis=1, keepdims=True) for x in (sft.true, one.true)]
        true |= tradeoffs.changes([SINGLE], *mean, **how)
    objective = objectives.get(policy)
    gain = agree = truth = None
    if objective is not None:
        value = as_function(objective, names)
        gain = bootstrap_mean(value(one.scores) - value(sft.scores), **how)
    if objective is not None and true_gap is not None and set(objective.names) <= {*principles, SINGLE}:
        columns = [list(names).index(name) for name in objective.names]
        agree = (one.scores - sft.scores)[:, columns]
        own = [true_gap.mean(axis=1) if n == SINGLE else true_gap[:, principles.index(n)] for n in objective.names]
        truth = np.stack(own, axis=1)
    against = compared.get((policy, SFT))
    return tradeoffs.hacking(
        moved, true or None, against and against.rate.as_dict(), objective=gain, model_gap=agree, true_gap=truth,
        lengths=(sft.responses.lengths, one.responses.lengths), kl=kl.get(policy), **how,
    )  # fmt: skip


def _pareto(
    answers: Mapping[str, Answers],
    names: Sequence[str],
    principles: Sequence[str],
    objective: Objective | None,
    reference: float,
) -> dict[str, Any] | None:
    """By the models, in deviations frozen before PPO; `truth`: by the known truth, in deviations of SFT's answers."""
    made = None
    if objective is not None and len(objective.names) > 1:
        columns = [list(names).index(name) for name in objective.names]
        if objective.normalizer == "none":  # raw scores have no common unit: they get that of SFT's answers
            objective = restandardized(objective, answers[SFT].scores[:, columns])
        points = {policy: _normalized(objective, one.scores[:, columns]) for policy, one in answers.items()}
        made = pareto.multi_objective_view(objective.names, points, reference)
    sft = answers[SFT]
    if sft.true is None or len(principles) < 2:
        return made
    spread = np.where(sft.true.std(axis=0) > 0, sft.true.std(axis=0), 1.0)
    points = {
        policy: ((one.true.mean(axis=0) - sft.true.mean(axis=0)) / spread).tolist() for policy, one in answers.items()
    }
    return {**(made or {}), "truth": pareto.multi_objective_view(principles, points, reference)}


def _normalized(objective: Objective, scores: Array) -> list[float]:
    """Mean normalised score of each principle, turned so that more is better."""
    return (objective.standardize(torch.from_numpy(scores)) * objective.direction).mean(dim=0).tolist()
