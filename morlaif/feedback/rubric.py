"""One response rated by several criteria of its own, as one answer.

A model that runs here reads the response once and is asked for each criterion behind it; a server is sent one request,
whose answer is a JSON object. Either way a rating is the mean over the likelihood of the numbers, where these can be
had, put on [−1, 1].
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from morlaif.data.records import Message, content_id, prompt_id
from morlaif.feedback.ledger import OK
from morlaif.feedback.modes import Asking, Question, Reading, at_place, covering, in_text, mean_by_mass, sum_of
from morlaif.feedback.outcomes import NO_JSON, NO_RATING, Value
from morlaif.feedback.prompt import rubric_messages
from morlaif.feedback.rating import Rater, Rating, Single, number_mass, to_score
from morlaif.feedback.records import Usage
from morlaif.feedback.reply import Reply
from morlaif.feedback.settings import Criterion, OpenAISettings


@dataclass(frozen=True, slots=True)
class Checklist:
    """One response to be rated by each of its criteria."""

    id: str  # identity of prompt and response
    messages: list[Message]  # ends with a user turn
    response: str
    criteria: tuple[Criterion, ...]
    attempt: int = 0  # a later one is a new question

    @classmethod
    def of(cls, messages: Sequence[Message], response: str, criteria: tuple[Criterion, ...]) -> Checklist:
        return cls(content_id(prompt_id(messages), response), list(messages), response, criteria)


@dataclass(frozen=True, slots=True)
class Ratings:
    """A judge's answer about one response."""

    id: str
    scores: tuple[float | None, ...]  # in [−1, 1], one a criterion; None: invalid
    judge: str
    reason: str | None = None  # why one is invalid
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    usd: float = 0.0

    @property
    def valid(self) -> bool:
        return None not in self.scores


class ChecklistRater(Protocol):
    name: str
    usage: Usage

    def judge(self, asked: Iterable[Checklist]) -> Iterator[tuple[Checklist, Ratings]]:
        """Stream answers as they arrive."""


class OneByOne:
    """A rater of single criteria, asked for those of a response side by side."""

    def __init__(self, rater: Rater) -> None:
        self.name, self.usage, self._rater = rater.name, rater.usage, rater

    def judge(self, asked: Iterable[Checklist]) -> Iterator[tuple[Checklist, Ratings]]:
        rows = list(asked)
        singles = [
            Single(str(place), row.messages, row.response, criterion, row.attempt)
            for place, row in enumerate(rows)
            for criterion in row.criteria
        ]
        places = {id(single): k for k, single in enumerate(singles)}  # a rater hands back what it was given
        begins = [0, *itertools.accumulate(len(row.criteria) for row in rows)]
        found: dict[int, Rating] = {}
        for single, rating in self._rater.judge(singles):
            found[places[id(single)]] = rating
            at = int(single.id)
            own = range(begins[at], begins[at + 1])
            if all(k in found for k in own):
                yield rows[at], _together(rows[at].id, self.name, [found.pop(k) for k in own])


def _together(id: str, judge: str, ratings: Sequence[Rating]) -> Ratings:
    costs = (sum(getattr(rating, kind) for rating in ratings) for kind in ("input_tokens", "output_tokens", "usd"))
    why = next((rating.reason for rating in ratings if not rating.valid), None)
    return Ratings(id, tuple(rating.score for rating in ratings), judge, why, *costs)


class Listed(Asking[Checklist, Ratings]):
    """All criteria of a response in one request to a server."""

    def __init__(self, settings: OpenAISettings, highest: int) -> None:
        super().__init__(settings)
        self.highest = highest

    def questions(self, asked: Checklist, logprobs: bool) -> list[Question]:
        """Draw after draw, a question for each criterion, all with one request. A later attempt is drawn."""
        keys = {f"c{k}": criterion for k, criterion in enumerate(asked.criteria, 1)}
        by_logprobs = logprobs and not asked.attempt
        schema = {
            "type": "object",
            "properties": {key: {"type": "integer", "minimum": 1, "maximum": self.highest} for key in keys},
            "required": list(keys),
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "ratings", "strict": True, "schema": schema}}
        decoding = self._decoding(self.settings.joint.max_tokens, by_logprobs) | {"response_format": form}
        messages = rubric_messages(asked.messages, asked.response, keys, self.highest)
        read = field_rated if by_logprobs else field_written
        votes = self.settings.votes
        begin = votes * (asked.attempt - logprobs)
        draws = [0] if by_logprobs else range(begin, begin + votes)
        whole: Any = partial(readable, tuple(keys))
        return [
            Question(
                messages, decoding, draw, partial(read, self.highest, key), field=key, share=len(keys), stored=whole
            )
            for draw in draws
            for key in keys
        ]

    def invalid(self, asked: Checklist, judge: str, reason: str) -> Ratings:
        return Ratings(asked.id, (None,) * len(asked.criteria), judge, reason)

    def verdict(self, asked: Checklist, readings: Sequence[Reading], logprobs: bool, judge: str) -> Ratings:
        count = len(asked.criteria)
        means = []
        for k in range(count):
            values = [reading.value for reading in readings[k::count] if reading.value is not None]
            means.append(to_score(math.fsum(values) / len(values), self.highest) if values else None)
        why = next((reading.outcome for reading in readings if reading.outcome != OK), None)
        return Ratings(asked.id, tuple(means), judge, why if None in means else None, *sum_of(readings))

    def said_of_votes(self) -> str:
        return f"ratings come from {self.settings.votes} sampled answers each"


def field_written(highest: int, key: str, reply: Reply) -> Value:
    """The number under `key` in a JSON reply, which may be in a fenced block."""
    return in_text(reply, partial(_written, highest, key), NO_RATING)


def _written(highest: int, key: str, text: str) -> float | None:
    try:
        value = json.loads(text[text.find("{") : text.rfind("}") + 1])[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and 1 <= value <= highest else None


def field_rated(highest: int, key: str, reply: Reply) -> Value:
    """The mean over the likelihood of the numbers at the place of the one under `key`; a 10 as it is written."""

    def place(reply: Reply, begin: int) -> Any:
        text = "".join(token[0][0] for token in reply.tokens or () if token)
        found = list(re.finditer(rf'"{re.escape(key)}"\s*:\s*(\d+)', text[begin:]))
        if not found or not 1 <= int(found[-1][1]) <= highest:
            return None
        at = covering(reply, begin + found[-1].start(1))
        lone = re.sub(r"\D", "", at[0][0]) == found[-1][1] if at else False  # else a 10 of two tokens, or of more text
        return (at, float(found[-1][1]), lone) if at else None

    def value(found: Any) -> Value:
        at, written, lone = found
        if not lone or (highest == 10 and any(token.strip() == "1" for token, _ in at) and written != 10.0):
            return written, OK
        return mean_by_mass(number_mass(at, highest), NO_RATING)

    return at_place(reply, place, value, NO_RATING)


def readable(keys: Sequence[str], reply: Reply) -> Value:
    """Whether a reply gives a number for each of `keys`; they are read again, one by one."""

    def read(text: str) -> float | None:
        return 1.0 if all(_written(10**6, key, text) is not None for key in keys) else None

    found = in_text(reply, read, NO_JSON)
    return (None, OK) if found[1] == OK else found
