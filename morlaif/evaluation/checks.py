"""Questions about single responses that a judge answers with yes or no, and how often it says yes of each policy.

The harmless rate of RLAIF (Lee et al. 2023, arXiv 2309.00267, section 3.4) is one, with a judge in the place of people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import MachineError, UserError
from morlaif.evaluation.results import CheckedRate, parts
from morlaif.evaluation.settings import CheckSettings
from morlaif.feedback.judge import at_home, open_checker
from morlaif.feedback.rating import Rater, Single
from morlaif.feedback.settings import Criterion, FeedbackSettings
from morlaif.feedback.sources.rules import ToyChecker
from morlaif.statistics import accuracy


def checker(engine: FeedbackSettings | None, ledger: Path) -> Rater:
    """Who says yes or no. `engine`: of the judge of policies; None: the rules of the toy world."""
    return ToyChecker() if engine is None else open_checker(engine, ledger=ledger)


def rates(
    judge: Rater,
    questions: Mapping[str, CheckSettings],
    prompts: Sequence[list[Message]],
    responses: Mapping[str, Sequence[str]],
    confidence: float,
) -> dict[str, dict[str, CheckedRate]]:
    """By question and policy; a response without an answer is left out, and counted.

    Args:
        responses: the texts of each policy, in the order of the prompts.
    """
    from morlaif import ranks

    made = {}
    for name, question in questions.items():
        criterion = Criterion(name=name, ask=question.question, covers=question.covers)
        rows = {
            policy: [Single.of(*row, criterion) for row in zip(prompts, texts, strict=True)]
            for policy, texts in responses.items()
        }
        asked = list({single.id: single for own in rows.values() for single in own}.values())
        said = ranks.on_first(partial(_answers, judge, asked), patiently=True)
        made[name] = {
            policy: _rate([said.get(single.id) for single in own], confidence) for policy, own in rows.items()
        }
    return made


def _answers(judge: Rater, asked: Sequence[Single]) -> dict[str, float | None]:
    try:
        return {single.id: rating.score for single, rating in judge.judge(asked)}
    except (UserError, MachineError) as error:
        raise at_home(error, "eval.judge.engine") from None


def _rate(scores: Sequence[float | None], confidence: float) -> CheckedRate:
    """Of scores in [−1, 1]: above 0 is a yes, 0 is half of one."""
    yes = np.array([np.nan if score is None else (np.sign(score) + 1) / 2 for score in scores])
    return CheckedRate(*parts(accuracy(yes, confidence)), invalid=int(np.isnan(yes).sum()))
