"""Labels that human raters gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from morlaif.feedback.records import Comparison, Usage, Verdict


class HumanJudge:
    """Passes on the label that the data holds. A pair without one is invalid."""

    name = "human"
    remembers = False

    def __init__(self) -> None:
        self.usage = Usage()

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            if asked.human is None:
                yield asked, Verdict.invalid(asked.id, self.name, "no human label")
            else:
                yield asked, Verdict(asked.id, asked.human, 0.0, True, self.name)

    def truth(self, comparison: Comparison) -> None:
        return None
