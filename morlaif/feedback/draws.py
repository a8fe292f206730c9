"""Several draws of one question, as long as they differ.

Letters are drawn several times where a model gives no log-probabilities. A server that ignores the temperature gives
the same one each time, and every further draw is money for nothing; so does a model that is certain of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from morlaif.feedback.modes import Question, Reading

ALIKE = 40  # questions whose draws were all alike, after which one draw is enough (20 pairs in both orders)
T = TypeVar("T")


class Draws:
    """Counts questions whose draws were alike; one that differs settles that draws are worth their price."""

    def __init__(self, votes: int, once: bool) -> None:
        """`once`: it is known from before that draws never differ."""
        self.votes, self.once = votes, once and votes > 1
        self._alike, self._differ = 0, False

    def needed(self, questions: Sequence[Question]) -> Sequence[Question]:
        """Of `questions`, draw after draw, those to ask: all of them, or the first draw of each."""
        return questions[:: self.votes] if self._drawn(questions) and self.once else questions

    def whole(self, questions: Sequence[Question], readings: Sequence[Reading]) -> list[Reading]:
        """The readings of all `questions` from those of the needed ones: what is not asked costs nothing."""
        if len(readings) == len(questions):
            return list(readings)
        return [
            Reading(one.value, one.outcome, one.cost if draw == 0 else (0.0, 0.0, 0.0))
            for one in readings
            for draw in range(self.votes)
        ]

    def saw(self, questions: Sequence[Question], readings: Sequence[Reading]) -> bool:
        """Count the draws of these questions; whether it shows just now that draws never differ."""
        if self.once or self._differ or not self._drawn(questions):
            return False
        for group in _groups([(one.value, one.outcome) for one in readings], self.votes):
            if None in [value for value, _ in group]:
                continue  # without an answer there is nothing to compare
            self._differ |= len(set(group)) > 1
            self._alike += 1
        self.once = not self._differ and self._alike >= ALIKE
        return self.once

    def _drawn(self, questions: Sequence[Question]) -> bool:
        return self.votes > 1 and len(questions) % self.votes == 0 and not any(q.by_logprobs for q in questions)


def _groups(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
