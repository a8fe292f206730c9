"""A causal language model that runs here, asked for one letter in both orders, with each pair read once.

The principle comes last in a prompt, so all principles share the tokens up to it, and the letters A and B are read
from one distribution. For each pair and order the shared tokens are run once; their keys and values are then
repeated for the endings, one a principle, which alone are run again. What is shared is found on the tokens
themselves, so that the ids are those of the whole prompts, whatever the tokenizer merges. For the saving to be real,
a pair's principles must come one after another: that is the order in which `feedback.order=pair` has the first unit
of a run ask, for all the others.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from morlaif.contents import Hashes
from morlaif.data.records import Message
from morlaif.feedback.arithmetic import mean_gap, position_bias, soft_label
from morlaif.feedback.checking import ANSWERS, answer_of
from morlaif.feedback.chunks import Verdicts
from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of
from morlaif.feedback.local import LetterModel, NumberModel, Stem, called, path_of
from morlaif.feedback.modes import specimen
from morlaif.feedback.outcomes import NOT_FINITE
from morlaif.feedback.prompt import CLOSING, checking_messages, comparison_messages, rating_messages, thinking_messages
from morlaif.feedback.rating import Rating, Single, mean_rating, to_score
from morlaif.feedback.reasoning import Reasoned, Reasoner
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import HfSettings, Principle, Prompting
from morlaif.feedback.verdict_cache import VerdictCache
from morlaif.models.fingerprint import policy_identity

PLAIN = Prompting(thought=None, exemplars=())
TOO_LONG = "longer than the model's context"


class LocalJudge(SourceJudge[HfSettings]):
    """Verdicts enter the ledger pair by pair, as the model gives them, under its identity: files for a folder, revision
    for a hub id.
    """

    remembers = True

    def __init__(self, settings: HfSettings, ledger: Path) -> None:
        self.name = f"hf:{called(settings)}"
        self.usage = Usage(method="logprob")
        self._settings = settings
        self._asks = settings.prompting or PLAIN
        self._ledger = Ledger(ledger)
        self._identity = _identity(settings, ledger)
        self._cache = VerdictCache(self.name, self._ledger, self._scope)
        self._engine: LetterModel | None = None
        self._reasoner: Reasoner | None = None

    @classmethod
    def open(cls, settings: HfSettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> LocalJudge:
        return cls(settings, ledger)

    @classmethod
    def open_rater(cls, settings: HfSettings, *, ledger: Path, highest: int) -> LocalRater:
        return LocalRater(settings, ledger, highest)

    @classmethod
    def open_checker(cls, settings: HfSettings, *, ledger: Path) -> LocalChecker:
        return LocalChecker(settings, ledger)

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        return self._cache.recall(principle, pair_ids)

    def _scope(self, principle: Principle) -> tuple[bytes, str]:
        asked = _orders(specimen(principle), self._asks)[0]
        key = key_of("hf", self._identity, asked, self._decoding() | {"principle": principle.name})
        return key, f"{principle.name}, {self.name}"

    def _decoding(self) -> dict[str, Any]:
        """What besides the messages shows in an answer."""
        thought = self._asks.thought
        reasoned = {} if thought is None else {"thought": thought.model_dump(mode="json"), "closing": CLOSING}
        return {"dtype": self._settings.dtype} | reasoned

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        """Pair after pair as they come, those under several principles together where they come side by side."""
        waiting: list[list[Comparison]] = []
        for _, group in itertools.groupby(comparisons, key=lambda asked: asked.id):
            waiting.append(list(group))
            if 2 * sum(map(len, waiting)) >= self._settings.batch_size:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def _batch(self, groups: Sequence[list[Comparison]]) -> Iterator[tuple[Comparison, Verdict]]:
        if self._engine is None:
            self._engine = LetterModel.load(self._settings)
            self._reasoner = Reasoner(self._engine, self._asks.thought) if self._asks.thought else None
        engine, room = self._engine, self._reasoner.room if self._reasoner else 0
        prompts = [[_orders(asked, self._asks)[order] for asked in group] for group in groups for order in (0, 1)]
        stems = [engine.stem(group) for group in prompts]
        fits = [engine.fits(stem, room) for stem in stems]
        found = self._answers([pair for pair, fine in zip(zip(stems, prompts, strict=True), fits, strict=True) if fine])
        for i, group in enumerate(groups):
            both = range(2 * i, 2 * i + 2)
            rows = [next(found) if fits[place] else None for place in both]  # runs the model when there is no more
            self.usage.input_tokens, self.usage.reused_tokens = engine.computed, engine.reused
            self.usage.output_tokens = self._reasoner.sampled if self._reasoner else 0
            done = []
            with self._ledger.transaction():  # at once: a kill loses what the model is at, and nothing else
                for k, asked in enumerate(group):
                    read = sum(len(stems[p].prefix) / len(group) + len(stems[p].endings[k]) for p in both)
                    orders = [row[k] if row is not None else None for row in rows]
                    written = sum(answer.tokens for row in orders if row is not None for answer in row)
                    verdict = self._verdict(asked, orders, (read, written, 0.0))
                    if verdict.valid:
                        self._cache.keep(asked.wording, verdict)
                    done.append((asked, verdict))
                    for place, row in zip(both, orders, strict=True):
                        self._keep_rationales(prompts[place][k], row)
            self.usage.requests += 2 * len(done)
            yield from done

    def _answers(self, asked: Sequence[tuple[Stem, list[list[Message]]]]) -> Iterator[list[list[Reasoned]]]:
        """For every stem, of each of its endings one answer, or the samples of a judge that reasons first."""
        stems = [stem for stem, _ in asked]
        if self._reasoner is None:
            for rows in self._engine_of().logprobs(stems):
                yield [[Reasoned(row, "", 0, [])] for row in rows]
            return
        keys = [[self._question(prompt) for prompt in prompts] for _, prompts in asked]
        yield from self._reasoner.ask(stems, [[int.from_bytes(key[:7], "big") for key in own] for own in keys])

    def _engine_of(self) -> LetterModel:
        assert self._engine is not None  # `_batch` has loaded it
        return self._engine

    def _question(self, messages: list[Message], sample: int = 0) -> bytes:
        return key_of("hf", self._identity, messages, self._decoding(), sample)

    def _keep_rationales(self, messages: list[Message], answers: Sequence[Reasoned] | None) -> None:
        """Write down what was reasoned, for whoever wants to know why."""
        for sample, answer in enumerate(answers or () if self._reasoner else ()):
            gap = answer.logprobs[0] - answer.logprobs[1]
            known = Answer(
                gap if math.isfinite(gap) else None, OK if math.isfinite(gap) else NOT_FINITE, 0, answer.tokens
            )
            raw = json.dumps({"rationale": answer.rationale}, ensure_ascii=False)
            self._ledger.put(self._question(messages, sample), "hf", self.name.removeprefix("hf:"), known, raw)

    def _verdict(
        self, asked: Comparison, orders: Sequence[list[Reasoned] | None], cost: tuple[float, float, float]
    ) -> Verdict:
        """From the samples of both orders; None: the question was too long."""
        both = [[answer.logprobs for answer in row] for row in orders if row is not None]
        if len(both) < len(orders):
            return Verdict.invalid(asked.id, self.name, TOO_LONG, cost=(0.0, 0.0, 0.0))
        if not all(math.isfinite(x) for rows in both for row in rows for x in row):
            return Verdict.invalid(asked.id, self.name, NOT_FINITE, cost=cost)
        forward, backward = (mean_gap([a - b for a, b in rows]) for rows in both)
        for rows in both:
            for a, b in rows:
                self.usage.weigh(min(1.0, math.exp(a) + math.exp(b)))
        p, bias = soft_label(forward, backward), position_bias(forward, backward)
        return Verdict(asked.id, p, bias, True, self.name, forward, backward, None, *cost)


class LocalRater:
    """Ratings from the likelihood of the numbers, several criteria of one response together.

    They enter the ledger response by response, each under its question: what is asked, and of which model.
    """

    def __init__(self, settings: HfSettings, ledger: Path, highest: int) -> None:
        self.name = f"hf:{called(settings)}"
        self.usage = Usage(method="logprob")
        self._settings, self._highest = settings, highest
        self._ledger = Ledger(ledger)
        self._identity = _identity(settings, ledger)
        self._engine: LetterModel | None = None

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        waiting: list[list[Single]] = []
        for _, group in itertools.groupby(asked, key=lambda single: single.id):
            unknown = []
            for single in group:
                if (known := self._ledger.get(self._key(single))) is not None:
                    self.usage.cached += 1
                    yield single, self._rating(single, known)
                else:
                    unknown.append(single)
            if unknown:
                waiting.append(unknown)
            if sum(map(len, waiting)) >= self._settings.batch_size:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def _key(self, single: Single) -> bytes:
        return key_of("hf", self._identity, self._messages(single), {"dtype": self._settings.dtype})

    def _messages(self, single: Single) -> list[Message]:
        return rating_messages(single.messages, single.response, single.principle, self._highest)

    def _load(self) -> LetterModel:
        return NumberModel.load(self._settings, highest=self._highest)

    def _read(self, row: Sequence[float]) -> tuple[float | None, list[tuple[str, float]]]:
        """The answer from the log-probabilities of all answers, and these as the ledger keeps them."""
        listed = [(str(i), x - max(row)) for i, x in enumerate(row, 1)]  # a constant falls out of the mean
        return mean_rating(listed, self._highest), listed

    def _rating(self, single: Single, answer: Answer) -> Rating:
        score = None if answer.value is None else to_score(answer.value, self._highest)
        return Rating(single.id, score, self.name, None, answer.input_tokens)

    def _batch(self, groups: Sequence[list[Single]]) -> Iterator[tuple[Single, Rating]]:
        if self._engine is None:
            self._engine = self._load()
        engine = self._engine
        stems = [engine.stem([self._messages(single) for single in group]) for group in groups]
        fits = [engine.fits(stem) for stem in stems]
        found = engine.logprobs([stem for stem, fine in zip(stems, fits, strict=True) if fine])
        for group, stem, fine in zip(groups, stems, fits, strict=True):
            rows = next(found) if fine else [None] * len(group)
            self.usage.input_tokens, self.usage.reused_tokens = engine.computed, engine.reused
            done = []
            with self._ledger.transaction():  # at once, as verdicts are
                for single, row, ending in zip(group, rows, stem.endings, strict=True):
                    read = len(stem.prefix) // len(group) + len(ending)
                    done.append((single, self._put(single, row, read)))
            self.usage.requests += len(done)
            yield from done

    def _put(self, single: Single, row: list[float] | None, read: int) -> Rating:
        """Write down a rating from the log-probabilities of the numbers; None: the question was too long."""
        if row is None or not all(map(math.isfinite, row)):
            return Rating(single.id, None, self.name, TOO_LONG if row is None else NOT_FINITE)
        value, listed = self._read(row)
        answer = Answer(value, OK, read)
        self._ledger.put(self._key(single), "hf", path_of(self._settings), answer, json.dumps(dict(listed)))
        return self._rating(single, answer)


class LocalChecker(LocalRater):
    """Questions about single responses, answered with yes or no."""

    def __init__(self, settings: HfSettings, ledger: Path) -> None:
        super().__init__(settings, ledger, highest=1)

    def _load(self) -> LetterModel:
        return LetterModel.load(self._settings, answers=ANSWERS, answer_of=answer_of)

    def _messages(self, single: Single) -> list[Message]:
        return checking_messages(single.messages, single.response, single.principle)

    def _read(self, row: Sequence[float]) -> tuple[float | None, list[tuple[str, float]]]:
        yes, no = row
        return 1.0 / (1.0 + math.exp(min(no - yes, 700.0))), list(zip(ANSWERS, row, strict=True))

    def _rating(self, single: Single, answer: Answer) -> Rating:
        score = None if answer.value is None else 2.0 * answer.value - 1.0
        return Rating(single.id, score, self.name, None, answer.input_tokens)


def _identity(settings: HfSettings, ledger: Path) -> str:
    """What tells this model from another. Hashes of its files are remembered beside the ledger."""
    trusted = settings.trust_remote_code
    return policy_identity(
        path_of(settings), settings.revision, Hashes(ledger.parent), trusted=trusted, key="feedback.path"
    )


def _orders(asked: Comparison, asks: Prompting = PLAIN) -> list[list[Message]]:
    """The question with the first response shown as A, and with the second."""
    put = comparison_messages if asks.thought is None else thinking_messages
    orders = ((asked.first, asked.second), (asked.second, asked.first))
    return [put(asked.messages, a, b, asked.wording, asks.exemplars) for a, b in orders]
