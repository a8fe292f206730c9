"""Preference models that read a set of principles: what they learn from, and what they are asked (SALMON, 2310.05910).

From the labels of single principles, by the paper's code: a pair's score under a principle is the mean of the judge's
log-odds in both orders, 0 where these disagree, divided by the variance of that principle's log-odds. A set of
principles is drawn for the pair, each negated with probability ½, which flips its score; the first response is better
under the set if the score of the largest size is above zero.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from morlaif.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morlaif.data.records import Message
    from morlaif.feedback.records import Verdict
    from morlaif.preference.report import PMReport
    from morlaif.preference.settings import SetDraws

CERTAIN = 10.0  # log-odds of a judge that is certain
Named = tuple[int, bool]  # a principle's place, and whether it is negated


@dataclass(frozen=True)
class SetExample:
    """A pair under a set of principles."""

    pair: int
    turn: int  # in which of the passes over the pairs
    principles: tuple[Named, ...]  # in the order in which they are read
    first: float  # probability that the first response is better: 0 or 1


def both_orders(verdicts: Sequence[Verdict]) -> NDArray[np.float64]:
    """(N, 2) the judge's log-odds of the first response, shown first and shown second; NaN where a verdict is invalid.

    Where the source has no orders, such as people, both are those of its probability.
    """
    return np.array([_log_odds(verdict) for verdict in verdicts], dtype=float).reshape(-1, 2)


def set_scores(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) scores under one principle, from (N, 2) log-odds: comparable between principles; NaN: no verdict."""
    valid = ~np.isnan(odds).any(axis=1)
    agree = (odds > 0).all(axis=1) | (odds < 0).all(axis=1)
    variance = float(odds[valid].var()) if valid.any() else 0.0
    scores = np.where(agree, odds.mean(axis=1), 0.0) / (variance or 1.0)
    return np.where(valid, scores, np.nan)


def preferred(scores: Sequence[float], negated: Sequence[bool]) -> float | None:
    """Probability, 0 or 1, that the first response is better under a set; None: nothing tells the two apart."""
    turned = [-score if turn else score for score, turn in zip(scores, negated, strict=True)]
    strongest = max(turned, key=abs)
    return None if strongest == 0 else float(strongest > 0)


def draw_examples(scores: NDArray[np.float64], draws: SetDraws, random: Random) -> list[SetExample]:
    """`draws.passes` sets for each pair, from the (N, K) scores of its pairs, NaN where there is no verdict.

    The size is geometric, drawn again where it is above `draws.most`; a share `draws.flipped` of the preferences is
    turned round, as noise.
    """
    known = [np.flatnonzero(~np.isnan(row)).tolist() for row in scores]
    examples = []
    for turn in range(draws.passes):
        for pair, places in enumerate(known):
            if not places:
                continue
            chosen = random.sample(places, min(_size(draws, random), len(places)))
            negated = [random.random() < draws.negated for _ in chosen]
            flip = random.random() < draws.flipped
            first = preferred([float(scores[pair, place]) for place in chosen], negated)
            if first is not None:
                named = tuple(zip(chosen, negated, strict=True))
                examples.append(SetExample(pair, turn, named, 1 - first if flip else first))
    return examples


def set_text(named: Sequence[tuple[str, bool]], negation: str) -> str:
    """What a model reads of principles, each negated or not, a line each. `negation` has {principle} for a text."""
    return "\n".join(negation.format(principle=text) if negated else text for text, negated in named)


@dataclass(frozen=True)
class Asked:
    """What a model that reads principles is asked about a dialogue."""

    model: str  # whose network it is
    texts: tuple[str, ...]  # the principles, as it reads them
    draw: int | None = None  # so many of them, drawn for each prompt; None: all

    def text(self, messages: Sequence[Message]) -> str:
        """The same for all responses to a prompt, whenever it is asked."""
        return "\n".join(self.texts if self.draw is None else drawn(self.texts, self.draw, messages))


@dataclass(frozen=True)
class Ask:
    """The same by names, before the models are read."""

    models: tuple[str, ...]  # whose principles it is about; the first one's network is asked
    written: Mapping[str, str]  # principles that no model has learnt, by name
    draw: int | None = None

    def of(self, reports: Mapping[str, PMReport]) -> Asked:
        """
        Raises:
            UserError: the models read no principles.
        """
        first = reports[self.models[0]]
        if first.question is None or first.instruction is None:
            raise UserError(
                f"preference model '{self.models[0]}' (pm.kind {first.kind}) reads no principles, so that it cannot be "
                "asked about a set of them, or about others: use pm=salmon or pm=conditioned"
            )
        known = () if self.draw is None else tuple(str(reports[name].question) for name in self.models)
        added = [instructed(first.instruction, name, text, "") for name, text in self.written.items()]
        return Asked(self.models[0], (*known, *added), self.draw)


def instructed(instruction: str, name: str, question: str, description: str) -> str:
    """What a model reads of a principle."""
    return instruction.format(name=name, question=question, description=description).strip()


def drawn(texts: Sequence[str], count: int, messages: Sequence[Message]) -> list[str]:
    """So many of `texts`, by the prompt alone."""
    key = hashlib.sha256(json.dumps([dict(message) for message in messages], sort_keys=True).encode()).hexdigest()
    return Random(key).sample(list(texts), min(count, len(texts)))


def _size(draws: SetDraws, random: Random) -> int:
    while True:
        size = 1 + math.floor(math.log(1 - random.random()) / math.log(1 - draws.stop)) if draws.stop < 1 else 1
        if size <= draws.most:
            return size


def _log_odds(verdict: Verdict) -> tuple[float, float]:
    if not verdict.valid or verdict.p_first is None:
        return math.nan, math.nan
    if verdict.d_forward is not None and verdict.d_backward is not None:
        return _within(verdict.d_forward), _within(-verdict.d_backward)
    p = min(max(verdict.p_first, 1e-9), 1 - 1e-9)
    odds = _within(math.log(p / (1 - p)))
    return odds, odds


def _within(odds: float) -> float:
    return min(max(odds, -CERTAIN), CERTAIN)
