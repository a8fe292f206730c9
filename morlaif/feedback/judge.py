"""The one interface behind which every source of feedback stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from morlaif.errors import MachineError, UserError
from morlaif.feedback.rating import Rater
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import (
    FeedbackSettings,
    HfSettings,
    HumanSettings,
    JsonlSettings,
    OpenAISettings,
    Principle,
    RulesSettings,
    input_files,
)
from morlaif.feedback.table import Verdicts


class Judge(Protocol):
    """Answers comparisons, each in both orders of presentation where the source can show an order at all."""

    name: str  # stands in every verdict
    usage: Usage
    remembers: bool  # whether `recall` may find what earlier runs asked

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        """Stream verdicts as they arrive, in any order, each beside what was asked. `comparisons` is read as needed.

        Raises:
            UserError: the source cannot be used at all (bad key, unknown model, no money). What arrived before is kept.
        """

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        """The valid verdicts that are known already, for a judge that remembers; invalid ones stand for the others."""

    def truth(self, comparison: Comparison) -> float | None:
        """How much better the first response really is, where the source knows (the toy world), else None."""


def at_home(error: UserError | MachineError, key: str) -> UserError | MachineError:
    """The same error for settings that stand at `key`: a source speaks of the group `feedback`."""
    return error if key == "feedback" else type(error)(re.sub(r"\bfeedback\.(?=[a-z])", f"{key}.", str(error)))


def open_judge(settings: FeedbackSettings, *, ledger: Path, seed: int, together: Sequence[Principle] = ()) -> Judge:
    """The judge that `settings` describes.

    Args:
        ledger: where answers are kept that cost money or time.
        seed: draws the errors of the rules judge.
        together: all principles of the run, for a judge that puts them into one request.
    """
    match settings:
        case RulesSettings():
            from morlaif.feedback.sources.rules import RulesJudge

            return RulesJudge(settings, seed)
        case HumanSettings():
            from morlaif.feedback.sources.human import HumanJudge

            return HumanJudge()
        case OpenAISettings():
            from morlaif.feedback.sources.openai import OpenAIJudge

            return OpenAIJudge(settings, ledger, together)
        case HfSettings():
            from morlaif.feedback.sources.hf import HfJudge

            return HfJudge(settings, ledger)
        case JsonlSettings():
            from morlaif.feedback.sources.jsonl import JsonlJudge

            return JsonlJudge(input_files(settings)[0])
    raise TypeError(f"no feedback source for {type(settings).__name__}")


def open_rater(settings: FeedbackSettings, *, ledger: Path, highest: int) -> Rater:
    """The rater that `settings` describe. `ledger`: where answers are kept that cost money or time."""
    match settings:
        case RulesSettings():
            from morlaif.feedback.sources.rules import RulesRater

            return RulesRater()
        case OpenAISettings():
            from morlaif.feedback.sources.openai import OpenAIJudge

            return OpenAIJudge(settings, ledger, highest=highest)
        case HfSettings():
            from morlaif.feedback.sources.hf import HfRater

            return HfRater(settings, ledger, highest)
    raise TypeError(f"no rater for {type(settings).__name__}")
