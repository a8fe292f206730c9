"""One response rated by itself under one criterion (direct-RLAIF: Lee et al. 2023, arXiv 2309.00267, section 2.2.3).

The judge answers with a whole number from 1 to `highest`; its rating is the mean over the likelihood of these numbers,
Σ i·P(i) / Σ P(i), put on [−1, 1]. Lee et al. go to 10, which is two tokens in many tokenizers: a model that runs here
tells a 1 from the beginning of a 10 by what it would write next (`local.NumberModel`). A server lists that for the
token that it sampled and no other: where its "1" may begin a 10 and is likely enough to matter, there is no rating, and
the next attempt is drawn. Where a model gives no log-probabilities, ratings are drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from morlaif.data.records import Message, content_id, prompt_id
from morlaif.errors import UserError
from morlaif.feedback.arithmetic import Alternatives
from morlaif.feedback.ledger import OK
from morlaif.feedback.modes import (
    Asking,
    Question,
    Reading,
    at_place,
    in_text,
    mean_by_mass,
    mean_of,
    number_place,
    sum_of,
    unfinished,
)
from morlaif.feedback.outcomes import NO_RATING, ONE_OR_TEN, UNSOUND, Value, sound
from morlaif.feedback.prompt import rating_messages
from morlaif.feedback.records import Usage
from morlaif.feedback.reply import Reply
from morlaif.feedback.settings import (
    Criterion,
    FeedbackSettings,
    HfSettings,
    OpenAISettings,
    PluginFeedback,
    RulesSettings,
)

AMBIGUOUS = 0.02  # share of a "1" that may begin a 10, up to which it counts as a 1: .18 of a point at most


@dataclass(frozen=True, slots=True)
class Single:
    """One response to be rated."""

    id: str  # identity of prompt and response
    messages: list[Message]  # ends with a user turn
    response: str
    principle: Criterion
    attempt: int = 0  # a later one is a new question: a sampled answer, where the first was not usable

    @classmethod
    def of(cls, messages: Sequence[Message], response: str, criterion: Criterion) -> Single:
        return cls(content_id(prompt_id(messages), response), list(messages), response, criterion)


@dataclass(frozen=True, slots=True)
class Rating:
    """A judge's answer about one response."""

    id: str  # of what was asked
    score: float | None  # in [−1, 1]; None: invalid
    judge: str
    reason: str | None = None  # why it is invalid
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    usd: float = 0.0

    @property
    def valid(self) -> bool:
        return self.score is not None


class Rater(Protocol):
    """Answers what is put to it, in any order."""

    name: str
    usage: Usage

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        """Stream ratings as they arrive.

        Raises:
            UserError: the source cannot be used at all (bad key, unknown model, no money). What arrived before is kept.
        """


def check_rater(settings: FeedbackSettings, key: str) -> None:
    """Check that the source `settings`, at `key` in the config, can rate.

    Raises:
        UserError: it cannot.
    """
    if isinstance(settings, PluginFeedback):
        settings.found(key, "rate")
    elif not isinstance(settings, RulesSettings | OpenAISettings | HfSettings):
        raise UserError(f"{key}.source={settings.source}: such a source rates no response; use rules, openai or hf")
    if isinstance(settings, OpenAISettings) and settings.delivery == "batch":
        raise UserError(f"{key}.delivery=batch: a step of PPO cannot wait for a batch; set it to live")


def to_score(rating: float, highest: int) -> float:
    """From 1 … `highest` to −1 … 1."""
    return 2.0 * (rating - 1.0) / (highest - 1.0) - 1.0


def mean_rating(alternatives: Alternatives, highest: int) -> float | None:
    """Σ i·P(i) / Σ P(i) over the numbers 1 … `highest` among the alternatives for a token; None without any."""
    mass = number_mass(alternatives, highest)
    total = math.fsum(mass.values())
    return math.fsum(i * p for i, p in mass.items()) / total if 0.0 < total < math.inf else None


def number_mass(alternatives: Alternatives, highest: int) -> dict[int, float]:
    mass: dict[int, float] = {}
    for token, logprob in alternatives if sound(alternatives) else ():
        if (number := token.strip(" ▁Ġ\n")) in _digits(highest):
            mass[int(number)] = mass.get(int(number), 0.0) + math.exp(logprob)
    return mass


def rating_by_logprobs(highest: int, reply: Reply) -> Value:
    """The mean rating, at the first number of the answer, else at its first token."""

    def read(tokens: Sequence[Alternatives]) -> Value:
        number = tokens[0][0][0].strip(" ▁Ġ\n")
        written = re.match(r"\d*", number + "".join(token[0][0] for token in tokens[1:3] if token))
        if number.isdigit() and written and written[0] not in _digits(highest):
            return None, NO_RATING  # the first digit of a larger number
        if not all(map(sound, tokens[:2] if highest == 10 else tokens[:1])):
            return None, UNSOUND
        mass = number_mass(tokens[0], highest)
        if highest == 10 and 10 not in mass and 1 in mass:
            if number == "1" and len(tokens) > 1 and tokens[1]:
                mass = _divided(mass, tokens[1])
            elif mass[1] > AMBIGUOUS * math.fsum(mass.values()):
                return None, ONE_OR_TEN
        return mean_by_mass(mass, NO_RATING)

    before = r"\W*" if unfinished(reply) else r"\D*"  # of a reply that was cut off only what it opens with counts
    opening = re.compile(rf"{before}({_pattern(highest)})")
    return at_place(reply, lambda reply, begin: number_place(reply, begin, opening), read, NO_RATING)


def _divided(mass: dict[int, float], following: Alternatives) -> dict[int, float]:
    """`mass` with that of 1 divided by what follows it: a 0, another digit, or an end of the number."""
    after = [(token, math.exp(logprob)) for token, logprob in following if token[:1].isdigit()]
    ten = min(1.0, math.fsum(p for token, p in after if token[0] == "0" and not token[1:2].isdigit()))
    more = min(1.0, math.fsum(p for _, p in after))
    return mass | {1: mass[1] * (1.0 - more), 10: mass[1] * ten}


def rating_drawn(highest: int, reply: Reply) -> Value:
    """The number that a reply opens with."""

    def read(text: str) -> float | None:
        found = re.match(rf"\W*({_pattern(highest)})\b(?!\.\d)", text)
        return float(found[1]) if found else None

    return in_text(reply, read, NO_RATING)


def _pattern(highest: int) -> str:
    return "10|[1-9]" if highest == 10 else f"[1-{highest}]"


class Scored(Asking[Single, Rating]):
    """A rating from the mean of what one question's answers say."""

    def score_of(self, mean: float) -> float:
        """That mean in [-1, 1]."""
        raise NotImplementedError

    def invalid(self, asked: Single, judge: str, reason: str) -> Rating:
        return Rating(asked.id, None, judge, reason)

    def verdict(self, asked: Single, readings: Sequence[Reading], logprobs: bool, judge: str) -> Rating:
        mean, cost = mean_of(readings), sum_of(readings)
        if mean is None:
            why = next(reading.outcome for reading in readings if reading.outcome != OK)
            return Rating(asked.id, None, judge, why, *cost)
        return Rating(asked.id, self.score_of(mean), judge, None, *cost)


class Rated(Scored):
    """A number from 1 to `highest`, at once."""

    def __init__(self, settings: OpenAISettings, highest: int) -> None:
        super().__init__(settings)
        self.highest = highest

    def questions(self, asked: Single, logprobs: bool) -> list[Question]:
        """A later attempt is drawn: at temperature 0 the same question would have the same answer."""
        by_logprobs = logprobs and not asked.attempt
        votes = self.settings.votes
        begin = votes * (asked.attempt - logprobs)
        messages = rating_messages(asked.messages, asked.response, asked.principle, self.highest)
        decoding = self._decoding(self.settings.score.max_tokens, by_logprobs)
        read = partial(rating_by_logprobs if by_logprobs else rating_drawn, self.highest)
        return [Question(messages, decoding, i, read) for i in ([0] if by_logprobs else range(begin, begin + votes))]

    def score_of(self, mean: float) -> float:
        return to_score(mean, self.highest)

    def said_of_votes(self) -> str:
        return f"ratings come from {self.settings.votes} sampled numbers each"


def _digits(highest: int) -> tuple[str, ...]:
    return tuple(map(str, range(1, highest + 1)))
