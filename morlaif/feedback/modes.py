"""How a verdict is asked for: which questions go to a language model, and what its replies make of them."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from morlaif.data.records import Message
from morlaif.feedback.arithmetic import (
    MIN_MASS,
    Alternatives,
    gap_from_votes,
    letter_at,
    letter_in,
    letter_mass,
    letter_of,
    position_bias,
    soft_label,
)
from morlaif.feedback.ledger import OK, Ledger, key_of
from morlaif.feedback.outcomes import (
    CUT_OFF,
    CUT_OFF_THINKING,
    EMPTY,
    LITTLE_MASS,
    NO_ANSWER,
    NO_GRADE,
    NO_JSON,
    NO_LETTER,
    NO_LOGPROBS,
    REFUSAL,
    UNDECIDED,
    UNSOUND,
    Value,
    odds,
    sound,
)
from morlaif.feedback.prompt import comparison_messages, grading_messages, joint_messages, reasoning_messages
from morlaif.feedback.records import Comparison, Verdict
from morlaif.feedback.reply import Reply
from morlaif.feedback.settings import OpenAISettings, Principle
from morlaif.feedback.thought import answer_begins, answer_of, sampled_text, tokens_begin

A = TypeVar("A")  # what is asked about: two responses, or a single one
V = TypeVar("V")  # a verdict, or a rating


@dataclass(frozen=True, slots=True)
class Question:
    """One request: what is asked, and how the reply is decoded and read."""

    messages: list[Message]
    decoding: dict[str, Any]
    sample: int  # which of several draws
    read: Callable[[Reply], Value]
    field: str | None = None  # which of several values in the reply is wanted; None: there is but one
    share: int = 1  # verdicts that this request serves
    stored: Callable[[Reply], Value] | None = None  # what the ledger keeps of the reply; None: as `stored` has it

    @property
    def by_logprobs(self) -> bool:
        return "logprobs" in self.decoding


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a question: a number or the reason why there is none, and the share of its cost."""

    value: float | None
    outcome: str
    cost: tuple[float, float, float] = (0.0, 0.0, 0.0)  # input tokens, output tokens, US dollars


class Asking(Generic[A, V]):
    """What is asked of a language model, and what its answers make."""

    def __init__(self, settings: OpenAISettings) -> None:
        self.settings = settings
        self.provider = settings.who_at
        self.fact = f"logprobs of {settings.who} at {self.provider}"  # what the ledger knows about the model

    def known_logprobs(self, ledger: Ledger) -> bool | None:
        """Whether the model gives log-probabilities: as configured, or as found out before; None: unknown."""
        known = {"always": "yes", "never": "no"}.get(self.settings.logprobs) or ledger.recall(self.fact)
        return None if known is None else known == "yes"

    def key(self, question: Question) -> bytes:
        """The identity of a question."""
        return key_of(self.provider, self.settings.who, question.messages, question.decoding, question.sample)

    def questions(self, asked: A, logprobs: bool) -> list[Question]:
        """All that must be asked for a verdict: the same in the same order, whenever."""
        raise NotImplementedError

    def verdict(self, asked: A, readings: Sequence[Reading], logprobs: bool, judge: str) -> V:
        """What the readings of all questions make."""
        raise NotImplementedError

    def invalid(self, asked: A, judge: str, reason: str) -> V:
        """No verdict."""
        raise NotImplementedError

    def said_of_votes(self) -> str:
        """What becomes of a verdict where the model gives no log-probabilities."""
        raise NotImplementedError

    def _decoding(self, max_tokens: int, logprobs: bool) -> dict[str, Any]:
        settings = self.settings
        decoding: dict[str, Any] = {**settings.extra_body, settings.max_tokens_key: max_tokens}
        if logprobs:
            return decoding | {"temperature": 0.0, "logprobs": True, "top_logprobs": settings.top_logprobs}
        return decoding | {"temperature": settings.vote_temperature}


class Mode(Asking[Comparison, Verdict]):
    """Questions in both orders of presentation, and the verdict from the log-odds of A in each."""

    def __init__(self, settings: OpenAISettings, together: Sequence[Principle] = ()) -> None:
        super().__init__(settings)
        self.together = sorted(together, key=lambda principle: principle.name)

    def scope(self, principle: Principle, logprobs: bool) -> tuple[bytes, str]:
        """Under what the ledger keeps verdicts: whatever shows in a question tells scopes apart. And a description."""
        asked = self.questions(specimen(principle), logprobs)
        identity = [self.settings.mode, str(self.settings.score.temperature), principle.name]
        digest = hashlib.sha256(b"".join([*map(str.encode, identity), *map(self.key, asked)])).digest()[:16]
        return digest, f"{principle.name}, {self.settings.mode}, {self.settings.who} at {self.provider}"

    def invalid(self, asked: Comparison, judge: str, reason: str) -> Verdict:
        return Verdict.invalid(asked.id, judge, reason)

    def questions(self, asked: Comparison, logprobs: bool) -> list[Question]:
        draws = range(1 if logprobs else self.settings.votes)
        orders = ((asked.first, asked.second), (asked.second, asked.first))
        return [self._question(asked, a, b, draw, logprobs) for a, b in orders for draw in draws]

    def verdict(self, asked: Comparison, readings: Sequence[Reading], logprobs: bool, judge: str) -> Verdict:
        """Valid only if both orders are, since one alone carries the judge's position bias."""
        half = len(readings) // 2
        cost = sum_of(readings)
        forward, backward = (_gap(order, logprobs) for order in (readings[:half], readings[half:]))
        if forward is None or backward is None:
            why = next((reading.outcome for reading in readings if reading.outcome != OK), NO_ANSWER)
            return Verdict.invalid(asked.id, judge, why, forward, backward, cost)
        p, bias = soft_label(forward, backward), position_bias(forward, backward)
        return Verdict(asked.id, p, bias, True, judge, forward, backward, None, *cost)

    def said_of_votes(self) -> str:
        votes = self.settings.votes
        return f"labels come from {votes} sampled letter{'s' if votes > 1 else ''} for each order"

    def _question(self, asked: Comparison, a: str, b: str, draw: int, logprobs: bool) -> Question:
        raise NotImplementedError


class Letter(Mode):
    """One letter, at once, perhaps after worked examples."""

    def _question(self, asked: Comparison, a: str, b: str, draw: int, logprobs: bool) -> Question:
        examples = self.settings.few_shot.examples if self.settings.mode == "few_shot" else ()
        messages = comparison_messages(asked.messages, a, b, asked.wording, examples)
        read = letter_by_logprobs if logprobs else letter_drawn
        return Question(messages, self._decoding(self.settings.max_tokens, logprobs), draw, read)


class Reasoned(Mode):
    """Reasoning, then a letter, read where the reasoning ends (Lee et al. 2023, arXiv 2309.00267)."""

    def _question(self, asked: Comparison, a: str, b: str, draw: int, logprobs: bool) -> Question:
        messages = reasoning_messages(asked.messages, a, b, asked.wording)
        read = closing_by_logprobs if logprobs else closing_drawn
        return Question(messages, self._decoding(self.settings.cot.max_tokens, logprobs), draw, read)


class Graded(Mode):
    """Each response alone, from 1 to 10 (direct-RLAIF, Lee et al. 2023): p = σ((ḡ₁ − ḡ₂) / temperature), where ḡ is the
    mean grade over its likelihood. There is no order, and so no position bias."""

    def questions(self, asked: Comparison, logprobs: bool) -> list[Question]:
        draws = range(1 if logprobs else self.settings.votes)
        decoding = self._decoding(self.settings.score.max_tokens, logprobs)
        read = grade_by_logprobs if logprobs else grade_drawn
        texts = (asked.first, asked.second)
        asks = [grading_messages(asked.messages, text, asked.wording) for text in texts]
        return [Question(messages, decoding, draw, read) for messages in asks for draw in draws]

    def verdict(self, asked: Comparison, readings: Sequence[Reading], logprobs: bool, judge: str) -> Verdict:
        half = len(readings) // 2
        cost = sum_of(readings)
        first, second = (mean_of(part) for part in (readings[:half], readings[half:]))
        if first is None or second is None:
            why = next(reading.outcome for reading in readings if reading.outcome != OK)
            return Verdict.invalid(asked.id, judge, why, cost=cost)
        lead = (first - second) / self.settings.score.temperature
        return Verdict(asked.id, soft_label(lead, -lead), 0.0, True, judge, lead, -lead, None, *cost)


class Joint(Mode):
    """All principles in one request, listed in an order that is drawn from the pair and the order of presentation."""

    def _question(self, asked: Comparison, a: str, b: str, draw: int, logprobs: bool) -> Question:
        listed = list(self.together)
        random.Random(f"{asked.id}/{a == asked.first}").shuffle(listed)
        names = [principle.name for principle in listed]
        schema = {
            "type": "object",
            "properties": {name: {"type": "string", "enum": ["A", "B"]} for name in names},
            "required": names,
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "verdicts", "strict": True, "schema": schema}}
        decoding = self._decoding(self.settings.joint.max_tokens, logprobs) | {"response_format": form}
        name = asked.wording.name
        read = partial(field_by_logprobs if logprobs else field_drawn, name)
        messages = joint_messages(asked.messages, a, b, listed)
        return Question(messages, decoding, draw, read, field=name, share=len(names))


def mode_of(settings: OpenAISettings, together: Sequence[Principle]) -> Mode:
    """How `settings` ask. A joint question about one principle is the plain one."""
    if settings.mode == "joint" and len(together) < 2:
        return Letter(settings)
    kinds = {"logprob": Letter, "few_shot": Letter, "cot": Reasoned, "score": Graded, "joint": Joint}
    return kinds[settings.mode](settings, together)


def letter_by_logprobs(reply: Reply) -> Value:
    """The log-odds of A at the letter of the answer."""
    return at_place(reply, letter_place, odds, NO_LETTER)


def letter_place(reply: Reply, begin: int) -> Alternatives | None:
    """The token of the letter; where the answer names none, its first token, unless that is the article."""
    text = sampled_text(reply)[begin:]
    if (at := letter_at(text, whole=reply.finish != "length")) is not None:
        return covering(reply, begin + at)
    first = covering(reply, begin + len(text) - len(text.lstrip()))
    return None if first is None or letter_of(first[0][0]) or unfinished(reply) else first


def letter_drawn(reply: Reply) -> Value:
    """+1 for A, −1 for B."""
    return in_text(reply, lambda text: _side(letter_in(text, whole=reply.finish != "length")), NO_LETTER)


_CLOSING = re.compile(
    r"(?i:answer)\W{0,8}:\W*(?:(?i:option)\W+)?([ABab])\b(?! (?!(?:is|because|since|as|wins)\b)[a-z])"
)


def closing_by_logprobs(reply: Reply) -> Value:
    """The log-odds of A at the letter that follows the last "Answer:"."""
    return at_place(reply, closing_place, odds, NO_LETTER)


def closing_place(reply: Reply, begin: int) -> Alternatives | None:
    found = list(_CLOSING.finditer(sampled_text(reply), begin))
    return covering(reply, found[-1].start(1)) if found else None


def closing_drawn(reply: Reply) -> Value:
    """+1 or −1 for the letter that follows the last "Answer:"."""

    def read(text: str) -> float | None:
        found = _CLOSING.findall(text)
        return _side(found[-1].upper() if found else None)

    return in_text(reply, read, NO_LETTER)


_GRADE = re.compile(r"\W*(10|[1-9])\b(?!\.\d)")


def grade_by_logprobs(reply: Reply) -> Value:
    """Mean grade over its likelihood, from the alternatives listed for the first token of the answer.

    Where a tokenizer writes 10 as two tokens, the mass of "1" is divided by what may follow it, if that was sampled.
    """

    def mean(tokens: Sequence[Alternatives]) -> Value:
        if not all(map(sound, tokens[:2])):
            return None, UNSOUND
        mass: dict[int, float] = {}
        for token, logprob in tokens[0]:
            if re.fullmatch(r"10|[1-9]", token.strip()):
                grade = int(token.strip())
                mass[grade] = mass.get(grade, 0.0) + math.exp(logprob)
        if 10 not in mass and tokens[0][0][0].strip() == "1" and len(tokens) > 1:
            ten = sum(math.exp(logprob) for token, logprob in tokens[1] if token.strip() == "0")
            mass[1], mass[10] = mass[1] * (1.0 - min(ten, 1.0)), mass[1] * min(ten, 1.0)
        return mean_by_mass(mass, NO_GRADE)

    return at_place(reply, lambda reply, begin: number_place(reply, begin, _GRADE), mean, NO_GRADE)


def number_place(reply: Reply, begin: int, pattern: re.Pattern[str]) -> list[Alternatives] | None:
    """The tokens from the number on that the answer opens with; where it opens with none, from its beginning."""
    text = sampled_text(reply)
    found = pattern.match(text, begin)
    at = found.start(1) if found else begin + len(text[begin:]) - len(text[begin:].lstrip())
    return covering(reply, at, rest=True)


def mean_by_mass(mass: dict[int, float], nothing: str) -> Value:
    """The mean of numbers over their probabilities; without enough of it, why there is none."""
    total = math.fsum(mass.values())
    if total < MIN_MASS:
        return None, LITTLE_MASS if total else nothing
    return math.fsum(number * p for number, p in mass.items()) / total, OK


def grade_drawn(reply: Reply) -> Value:
    """The grade that a reply opens with."""

    def read(text: str) -> float | None:
        found = _GRADE.match(text)
        return float(found[1]) if found else None

    return in_text(reply, read, NO_GRADE)


def field_drawn(name: str, reply: Reply) -> Value:
    """+1 or −1 for the letter under `name` in a JSON reply, which may be in a fenced block."""
    if reply.text is not None and "{" not in reply.text and not unfinished(reply):
        return refused(reply) or (None, NO_JSON)

    def read(text: str) -> float | None:
        try:
            letter = json.loads(text[text.find("{") : text.rfind("}") + 1])[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return _side(letter_of(letter) if isinstance(letter, str) else None)

    return in_text(reply, read, NO_LETTER)


def field_by_logprobs(name: str, reply: Reply) -> Value:
    """The log-odds of A at the letter under `name` in a JSON reply."""
    return at_place(reply, lambda reply, begin: field_place(reply, begin, name), odds, NO_LETTER)


def field_place(reply: Reply, begin: int, name: str) -> Alternatives | None:
    found = list(re.finditer(rf'"{re.escape(name)}"\s*:\s*"([AB])"', sampled_text(reply)[begin:]))
    return covering(reply, begin + found[-1].start(1)) if found else None


def several(reply: Reply) -> Value:
    """Whether a reply with a value for each principle can be read; its values are read again, one by one."""

    def read(text: str) -> Value:
        return (None, OK) if re.search(r':\s*"[AB]"', text) else (None, NO_LETTER)

    if (why := unanswered(reply)) is not None:
        return why
    found = read(answer_of(reply) or "")
    return found if found[1] == OK or not unfinished(reply) else (None, CUT_OFF)


def mass_in(read: Callable[[Reply], Value], reply: Reply) -> float | None:
    """The probability that lies on the letters A and B where `read` looks for one; None: it looks at no letters."""
    place: Callable[[Reply, int], Alternatives | None]
    if isinstance(read, partial) and read.func is field_by_logprobs:
        place = partial(field_place, name=read.args[0])
    elif read is letter_by_logprobs:
        place = letter_place
    elif read is closing_by_logprobs:
        place = closing_place
    else:
        return None
    begin = tokens_begin(reply) if reply.tokens else None
    listed = None if begin is None else place(reply, begin)
    return letter_mass(listed) if listed and sound(listed) else None


def stored(question: Question) -> Callable[[Reply], Value]:
    """What the ledger keeps of a reply."""
    if question.stored is not None:
        return question.stored
    return question.read if question.field is None else several


READERS: dict[str, Callable[[Reply], Value]] = {
    reader.__name__: reader
    for reader in (
        letter_by_logprobs, letter_drawn, closing_by_logprobs, closing_drawn, grade_by_logprobs, grade_drawn, several,
    )
}  # fmt: skip


def at_place(reply: Reply, find: Callable[..., Any], value: Callable[[Any], Value], nothing: str) -> Value:
    """`value` of what `find(reply, begin)` finds among the tokens, in whose text the answer begins at `begin`."""
    if (why := unanswered(reply)) is not None:
        return why
    if not reply.tokens:
        return None, NO_LOGPROBS
    if (begin := tokens_begin(reply)) is None:
        thinking = answer_begins(sampled_text(reply)) is None
        return None, CUT_OFF_THINKING if thinking and reply.finish == "length" else UNDECIDED
    if not (place := find(reply, begin)):
        return None, CUT_OFF if unfinished(reply) else nothing
    found = value(place)
    return (None, CUT_OFF) if found == (None, nothing) and unfinished(reply) else found


def in_text(reply: Reply, read: Callable[[str], float | None], nothing: str) -> Value:
    """What `read` finds in the text of the answer."""
    if (why := unanswered(reply)) is not None:
        return why
    if (value := read(answer_of(reply) or "")) is not None:
        return value, OK
    return None, CUT_OFF if unfinished(reply) else nothing


def covering(reply: Reply, at: int, rest: bool = False) -> Any:
    """The alternatives for the token that holds the character `at` of the joined text; `rest`: and for all after it."""
    end = 0
    tokens = reply.tokens or []
    for i, token in enumerate(tokens):
        end += len(token[0][0]) if token else 0
        if token and at < end:
            return tokens[i:] if rest else token
    return None


def unanswered(reply: Reply) -> Value | None:
    """Why there is no answer at all, if there is none."""
    if (why := refused(reply)) is not None:
        return why
    if answer_of(reply) is None:
        return None, CUT_OFF_THINKING
    if not (reply.text or "").strip() and not (reply.tokens and not reply.thought):
        return None, CUT_OFF if unfinished(reply) else EMPTY
    return None


def refused(reply: Reply) -> Value | None:
    return (None, REFUSAL) if reply.refusal or reply.finish == "content_filter" else None


def unfinished(reply: Reply) -> bool:
    """Whether the reply ends where it had no more room. One token, where one was asked for, is a whole reply."""
    return reply.finish == "length" and (len(reply.tokens) if reply.tokens else reply.output_tokens) != 1


def _side(letter: str | None) -> float | None:
    return {"A": 1.0, "B": -1.0}.get(letter or "")


def _gap(readings: Sequence[Reading], logprobs: bool) -> float | None:
    if logprobs:
        return readings[0].value
    drawn = [reading.value for reading in readings if reading.value is not None]
    return gap_from_votes(drawn.count(1.0), drawn.count(-1.0))


def mean_of(readings: Sequence[Reading]) -> float | None:
    values = [reading.value for reading in readings if reading.value is not None]
    return math.fsum(values) / len(values) if values else None


def sum_of(readings: Sequence[Reading]) -> tuple[float, float, float]:
    return tuple(math.fsum(reading.cost[i] for reading in readings) for i in range(3))  # type: ignore[return-value]


def specimen(principle: Principle) -> Comparison:
    """A comparison for where only the wording of the question matters."""
    return Comparison("specimen", [Message(role="user", content="?")], "first", "second", principle)
