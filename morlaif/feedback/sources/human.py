"""Labels that human raters gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.records import Comparison, Verdict
from morlaif.feedback.settings import HumanSettings, Principle


class HumanJudge(SourceJudge[HumanSettings]):
    """Passes on the label that the data holds. A pair without one is invalid."""

    name = "human"

    @classmethod
    def open(cls, settings: HumanSettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> HumanJudge:
        return cls()

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            if asked.human is None:
                yield asked, Verdict.invalid(asked.id, self.name, "no human label")
            else:
                yield asked, Verdict(asked.id, asked.human, 0.0, True, self.name)
