"""What a judge is: the interface that labelling works with, and how the judge that a config names is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from morlaif.errors import MachineError, UserError
from morlaif.feedback.chunks import Verdicts
from morlaif.feedback.rating import Rater
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.rubric import ChecklistRater, OneByOne
from morlaif.feedback.settings import JUDGES, FeedbackSettings, Principle
from morlaif.settings import Settings

S = TypeVar("S", bound=Settings)


class Judge:
    """Answers comparisons, each in both orders of presentation where the source can show an order at all.

    `judge` is each source's own, the rest has a default.
    """

    name: str  # in every verdict
    remembers: bool = False  # whether `recall` may find what earlier runs asked
    knows_truth: bool = False  # whether `truth` has an answer

    @cached_property
    def usage(self) -> Usage:
        """What it has done so far."""
        return Usage()

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        """Stream verdicts as they arrive, in any order, each beside what was asked. `comparisons` is read as needed.

        Raises:
            UserError: the source cannot be used at all (bad key, unknown model, no money). What arrived before is kept.
        """
        raise NotImplementedError

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        """The valid verdicts that are known already, for a judge that remembers, with invalid ones for the others."""
        return Verdicts.none(self.name, pair_ids)

    def truth(self, comparison: Comparison) -> float | None:
        """How much better the first response really is, where the source knows (the toy world), else None."""
        return None

    def finish(self) -> dict[str, int]:
        """Counts for the unit's record, when all was asked."""
        return {}


class SourceJudge(Judge, Generic[S]):
    """A judge that a config can name: it opens what settings of its class describe."""

    @classmethod
    def open(cls, settings: S, *, ledger: Path, seed: int, together: Sequence[Principle]) -> Judge:
        """`open_judge` has the arguments."""
        raise NotImplementedError

    @classmethod
    def open_rater(cls, settings: S, *, ledger: Path, highest: int) -> Rater:
        """What rates single responses; `check_rater` refuses sources that cannot."""
        raise NotImplementedError

    @classmethod
    def open_checklist(cls, settings: S, *, ledger: Path, highest: int) -> ChecklistRater:
        """What rates single responses by several criteria of their own, as one answer (`feedback.rubric`)."""
        return OneByOne(cls.open_rater(settings, ledger=ledger, highest=highest))

    @classmethod
    def open_checker(cls, settings: S, *, ledger: Path) -> Rater:
        """What answers questions about single responses with yes or no (`feedback.checking`)."""
        raise UserError("feedback.source: it answers no question with yes or no; use rules, openai or hf")


def at_home(error: UserError | MachineError, key: str) -> UserError | MachineError:
    """The same error for settings at `key`: a source speaks of the group `feedback`."""
    return error if key == "feedback" else type(error)(re.sub(r"\bfeedback\.(?=[a-z])", f"{key}.", str(error)))


def open_judge(settings: FeedbackSettings, *, ledger: Path, seed: int, together: Sequence[Principle] = ()) -> Judge:
    """The judge that `settings` describe.

    Args:
        ledger: where answers are kept that cost money or time.
        seed: draws the errors of the rules judge.
        together: all principles of the run, for a judge that puts them into one request.
    """
    return _class(settings).open(settings, ledger=ledger, seed=seed, together=together)


def open_rater(settings: FeedbackSettings, *, ledger: Path, highest: int) -> Rater:
    """The rater that `settings` describe. `ledger`: where answers are kept that cost money or time."""
    return _class(settings).open_rater(settings, ledger=ledger, highest=highest)


def open_checklist(settings: FeedbackSettings, *, ledger: Path, highest: int) -> ChecklistRater:
    """What rates single responses by several criteria of their own."""
    return _class(settings).open_checklist(settings, ledger=ledger, highest=highest)


def open_checker(settings: FeedbackSettings, *, ledger: Path) -> Rater:
    """What answers questions about single responses with yes or no: scores above 0 say yes.

    Raises:
        UserError: such a source does not.
    """
    return _class(settings).open_checker(settings, ledger=ledger)


def _class(settings: FeedbackSettings) -> type[SourceJudge[Any]]:
    found: type[SourceJudge[Any]] = JUDGES.find(settings.source or "")
    return found
