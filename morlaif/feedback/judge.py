"""The one interface behind which every source of feedback stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import FeedbackSettings, HumanSettings, OpenAISettings, RulesSettings


class Judge(Protocol):
    """Answers comparisons, each in both orders of presentation where the source can show an order at all."""

    name: str  # stands in every verdict
    usage: Usage

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        """Stream verdicts as they arrive, in any order, each beside what was asked. `comparisons` is read as needed.

        Raises:
            UserError: the source cannot be used at all (bad key, unknown model, no money). What arrived before is kept.
        """

    def truth(self, comparison: Comparison) -> float | None:
        """How much better the first response really is, where the source knows (the toy world), else None."""


def open_judge(settings: FeedbackSettings, *, ledger: Path, seed: int) -> Judge:
    """The judge that `settings` describes. Paid answers go to `ledger`; `seed` draws the errors of the rules judge."""
    match settings:
        case RulesSettings():
            from morlaif.feedback.sources.rules import RulesJudge

            return RulesJudge(settings, seed)
        case HumanSettings():
            from morlaif.feedback.sources.human import HumanJudge

            return HumanJudge()
        case OpenAISettings():
            from morlaif.feedback.sources.openai import OpenAIJudge

            return OpenAIJudge(settings, ledger)
    raise TypeError(f"no feedback source for {type(settings).__name__}")
