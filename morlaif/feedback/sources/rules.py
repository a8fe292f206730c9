"""The toy world's transparent judge, used as feedback: exact rules seen through doubt, error and position bias."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from morlaif.data.records import Message
from morlaif.errors import UserError, suggest
from morlaif.feedback.arithmetic import logit, position_bias, soft_label
from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.rating import Rating, Single
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import Criterion, PriceSettings, Principle, RulesSettings
from morlaif.toy import judge as toy


class ToyJudge(SourceJudge[RulesSettings]):
    """Log-odds of the option shown as A: (√k (s_A − s_B) + noise·ε) / temperature + position_bias.

    s is the mean score over the k toy principles that are covered; √k makes the judge as sure of a broad principle as
    of a narrow one. ε is a standard logistic error, absent where the scores are equal: who sees no difference says so.
    It is drawn from a hash of seed, principle, conversation and the two options in their order: the same question gets
    the same answer, whenever and after whatever it is asked. With a price it counts, as its tokens, the words that
    another judge would read, in both orders, and one that it would write.
    """

    name = "rules"
    knows_truth = True

    def __init__(self, settings: RulesSettings, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self.usage = Usage(method="rules")

    @classmethod
    def open(cls, settings: RulesSettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> ToyJudge:
        return cls(settings, seed)

    @classmethod
    def open_rater(cls, settings: RulesSettings, *, ledger: Path, highest: int) -> ToyRater:
        return ToyRater(settings.price)

    @classmethod
    def open_checker(cls, settings: RulesSettings, *, ledger: Path) -> ToyChecker:
        return ToyChecker(settings.price)

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            first, second = self._scores(asked)
            forward = self._ask(asked, first, second, asked.first, asked.second)
            backward = self._ask(asked, second, first, asked.second, asked.first)
            self.usage.requests += 2
            p, bias = soft_label(forward, backward), position_bias(forward, backward)
            shown = (asked.wording.question, asked.wording.description, *_said(asked), asked.first, asked.second)
            cost = _paid(self.usage, self._settings.price, 2, shown)
            yield asked, Verdict(asked.id, p, bias, True, self.name, forward, backward, None, *cost)

    def truth(self, comparison: Comparison) -> float:
        first, second = self._scores(comparison)
        return first - second

    def _scores(self, asked: Comparison) -> tuple[float, float]:
        principle = asked.wording
        return score(principle, asked.messages, asked.first), score(principle, asked.messages, asked.second)

    def _ask(self, asked: Comparison, score_a: float, score_b: float, shown_a: str, shown_b: str) -> float:
        settings = self._settings
        seen = math.sqrt(len(asked.wording.covers)) * (score_a - score_b)
        if settings.noise and seen:
            turns = [[turn["role"], turn["content"]] for turn in asked.messages]
            seen += settings.noise * _logistic(self._seed, asked.wording.name, turns, shown_a, shown_b)
        return seen / settings.temperature + settings.position_bias


class ToyRater:
    """The exact score of a response, its range put on [−1, 1]. Doubt, error and position bias belong to comparisons."""

    name = "rules"

    def __init__(self, price: PriceSettings | None = None) -> None:
        self.usage, self._price = Usage(method="rules"), price

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        for single in asked:
            exact = score(single.principle, single.messages, single.response)
            low, high = (mean(toy.RANGE[name][end] for name in single.principle.covers) for end in (0, 1))
            self.usage.requests += 1
            cost = _paid(self.usage, self._price, 1, (single.principle.ask, *_said(single), single.response))
            yield single, Rating(single.id, 2.0 * (exact - low) / (high - low) - 1.0, self.name, None, *cost)


class ToyChecker:
    """Yes to a response that breaks none of the principles that the question covers: none of its scores is below 0."""

    name = "rules"

    def __init__(self, price: PriceSettings | None = None) -> None:
        self.usage, self._price = Usage(method="rules"), price

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        for single in asked:
            kept = all(toy.score(name, single.messages, single.response) >= 0 for name in single.principle.covers)
            self.usage.requests += 1
            cost = _paid(self.usage, self._price, 1, (single.principle.ask, *_said(single), single.response))
            yield single, Rating(single.id, 1.0 if kept else -1.0, self.name, None, *cost)


def _said(asked: Comparison | Single) -> Iterator[str]:
    return (turn["content"] for turn in asked.messages)


def _paid(usage: Usage, price: PriceSettings | None, requests: int, shown: Iterable[str]) -> tuple[float, float, float]:
    """Words read, words written and dollars of so many requests that show these texts, counted in `usage`."""
    if price is None:
        return 0.0, 0.0, 0.0
    read, written = requests * sum(len(text.split()) for text in shown), requests
    usd = price.usd(read, written)
    usage.input_tokens, usage.output_tokens = usage.input_tokens + read, usage.output_tokens + written
    usage.usd += usd
    return read, written, usd


def score(principle: Principle | Criterion, messages: Sequence[Message], response: str) -> float:
    """The exact score of `response`: the mean over the toy principles that `principle` covers."""
    for name in principle.covers:
        if name not in toy.PRINCIPLES:
            raise UserError(
                f"principles: '{principle.name}' covers '{name}', which the toy world does not have."
                f"{suggest(name, toy.PRINCIPLES)} Known: {', '.join(toy.PRINCIPLES)}"
            )
    return sum(toy.score(name, messages, response) for name in principle.covers) / len(principle.covers)


def _logistic(*what: object) -> float:
    """A standard logistic variate that is a function of `what` alone."""
    digest = hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).digest()
    return logit((int.from_bytes(digest[:6], "big") + 0.5) / 2**48)
