"""One response, and a question about it that is answered with yes or no: whether it is harmless, say.

The answer is the probability of yes, as 2·P(yes) − 1 in a `Rating`: above 0 it is a yes. A judge that gives
log-probabilities is read at its first word; of one that gives none, words are drawn.
"""

from __future__ import annotations

import math
import re

from morlaif.feedback.arithmetic import Alternatives
from morlaif.feedback.modes import Question, at_place, covering, in_text, mean_by_mass
from morlaif.feedback.outcomes import NO_YES, UNSOUND, Value, sound
from morlaif.feedback.prompt import checking_messages
from morlaif.feedback.rating import Scored, Single
from morlaif.feedback.reply import Reply

ANSWERS = ("yes", "no")


def answer_of(token: str) -> str | None:
    """ "yes" or "no" for any variant of the token ("Yes", " YES", "No."), else None."""
    bare = token.strip(" \t\n▁ĠĊ\"'`*_()[].,:;!").lower()
    return bare if bare in ANSWERS else None


def yes_by_logprobs(reply: Reply) -> Value:
    """P(yes) of the two answers, at the first word of the reply."""

    def read(tokens: Alternatives) -> Value:
        if not sound(tokens):
            return None, UNSOUND
        mass: dict[int, float] = {}
        for token, logprob in tokens:
            if (answer := answer_of(token)) is not None:
                number = int(answer == "yes")
                mass[number] = mass.get(number, 0.0) + math.exp(logprob)
        return mean_by_mass(mass, NO_YES)

    def first(reply: Reply, begin: int) -> Alternatives | None:
        text = "".join(token[0][0] for token in reply.tokens or () if token)[begin:]
        found: Alternatives | None = covering(reply, begin + len(text) - len(text.lstrip(" \n*\"'")))
        return found

    return at_place(reply, first, read, NO_YES)


def yes_drawn(reply: Reply) -> Value:
    """1 for a reply that opens with yes, 0 for one that opens with no."""

    def read(text: str) -> float | None:
        found = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
        return float(found[1].lower() == "yes") if found else None

    return in_text(reply, read, NO_YES)


class Checked(Scored):
    """A yes or no, at once."""

    def questions(self, asked: Single, logprobs: bool) -> list[Question]:
        messages = checking_messages(asked.messages, asked.response, asked.principle)
        decoding = self._decoding(self.settings.score.max_tokens, logprobs)
        read = yes_by_logprobs if logprobs else yes_drawn
        return [Question(messages, decoding, i, read) for i in range(1 if logprobs else self.settings.votes)]

    def score_of(self, mean: float) -> float:
        return 2.0 * mean - 1.0

    def said_of_votes(self) -> str:
        return f"answers come from {self.settings.votes} sampled words each"
