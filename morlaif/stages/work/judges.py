"""The judge of policies and the preference models that score their answers, as an evaluation has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morlaif import ranks
from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.evaluation.judges import EngineJudge, PolicyJudge, Score, ScoreJudge, UtilityJudge
from morlaif.evaluation.settings import HfJudge, JudgeSettings, OpenAIJudge, PluginJudge, PMJudge, RulesJudge
from morlaif.stages.work.places import bank_of
from morlaif.statistics import Array

if TYPE_CHECKING:
    from morlaif.units.job import Job

    AnyJob = Job[Any, Any]  # its needs have `sft` and `pm`, its reads `places`

GOLD = "gold"  # the preference model of the human labels, for the judge


def scorer(job: AnyJob, models: Mapping[str, Path]) -> Score:
    """prompts, responses -> raw scores (N, K) of the preference models in these folders, in their order."""
    if not models:
        return lambda prompts, responses: np.zeros((len(responses), 0))
    bank = bank_of(job, models)

    def score(prompts: Sequence[list[Message]], responses: Sequence[str]) -> Array:
        scored: Array = ranks.mapped(bank.score, prompts, responses, mistake=UserError).double().cpu().numpy()
        return scored

    return score


def policy_judge(job: AnyJob, settings: JudgeSettings) -> PolicyJudge:
    """Who decides which of two responses is better."""
    match settings:
        case RulesJudge():
            return UtilityJudge()
        case PMJudge():
            gold = scorer(job, {GOLD: job.needs.pm[GOLD]})
            return ScoreJudge(lambda prompts, responses: gold(prompts, responses)[:, 0])
        case OpenAIJudge() | HfJudge() | PluginJudge():
            return EngineJudge(settings, ledger=job.ledger, seed=job.seed, on_progress=job.progress)
