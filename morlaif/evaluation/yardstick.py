"""The identity of what policies are compared by, and how well a judge agrees with people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from morlaif.data.records import Message, Pair, prompt_id
from morlaif.evaluation.judges import PolicyJudge
from morlaif.evaluation.preferences import agreement
from morlaif.evaluation.results import Estimate, JudgeAgreement, Yardstick
from morlaif.evaluation.settings import JudgeSettings, PMJudge, RulesJudge
from morlaif.feedback.prompt import comparison_messages
from morlaif.feedback.settings import Principle
from morlaif.settings import identity
from morlaif.statistics import Resampling, accuracy, bootstrap_mean
from morlaif.toy.world import UTILITY_VERSION

SHOWN: list[Message] = [{"role": "user", "content": "?"}]  # to a judge, for the words around a pair


def yardstick(
    settings: JudgeSettings,
    name: str,
    prompts: Sequence[list[Message]],
    *,
    contents: Mapping[str, str],
    gold: str | None,
) -> Yardstick:
    """
    Args:
        name: of the judge.
        contents: digests of what the settings of the judge name outside the run, by key: weights, a function.
        gold: digest of the preference model, where one is the judge.
    """
    who: list[Any] = [identity(settings), dict(contents)]
    asked = ""
    match settings:
        case RulesJudge():
            who.append(UTILITY_VERSION)
        case PMJudge():
            who.append(gold)
        case engine:
            question = Principle(
                name="overall", question=engine.question, description=engine.description or "-", covers=("overall",)
            )
            asked = digest([dict(turn) for turn in comparison_messages(SHOWN, "a", "b", question)])
    return measured_by(name, digest(who), asked, list(map(prompt_id, prompts)))


def measured_by(judge: str, judge_id: str, template: str, prompts: Sequence[str]) -> Yardstick:
    """The yardstick of a known judge on `prompts`, by their ids; the order does not count."""
    on = digest(sorted(prompts))
    return Yardstick(digest([judge_id, template, on]), judge, judge_id, template, on, len(prompts))


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def agrees_with_people(judge: PolicyJudge, pairs: Sequence[Pair], **how: Unpack[Resampling]) -> JudgeAgreement | None:
    """Of a judge's verdicts with the human labels of `pairs`, beside the rule that the longer response is better, on
    the same pairs; None without a label."""
    known = [pair for pair in pairs if pair.human is not None]
    if not known:
        return None
    verdict = judge.compare(*([getattr(pair, part) for pair in known] for part in ("messages", "first", "second")))
    lean = np.where(verdict.valid, (verdict.forward + verdict.backward) / 2 - 0.5, np.nan)
    human = np.array([pair.human for pair in known], dtype=float)
    right = agreement(lean, human)
    longer = agreement([len(pair.first) - len(pair.second) for pair in known], human)
    longer = np.where(np.isnan(right), np.nan, longer)  # on the pairs that have a verdict
    of_judge, of_rule = (Estimate.of(accuracy(share, how["confidence"])) for share in (right, longer))
    return JudgeAgreement(of_judge, of_rule, Estimate.of(bootstrap_mean(right - longer, **how)))
