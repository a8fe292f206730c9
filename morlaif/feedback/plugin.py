"""The base class of judges in other packages: what it asks of them, and what it does for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.feedback.arithmetic import position_bias, soft_label
from morlaif.feedback.chunks import Verdicts
from morlaif.feedback.judge import Judge, SourceJudge
from morlaif.feedback.ledger import Ledger, key_of
from morlaif.feedback.outcomes import NO_ANSWER, NOT_FINITE
from morlaif.feedback.rating import Rater, Rating, Single
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import Criterion, PluginFeedback, Principle
from morlaif.feedback.verdict_cache import VerdictCache
from morlaif.source import source_identity

M = TypeVar("M", bound=Callable[..., Any])


class NoVerdict(Exception):
    """A judge of another package has no answer to a question; the message says why and is counted."""


def _left_out(method: M) -> M:
    """Mark a method that a subclass may leave out, so that it is known before a run."""
    method.left_out = True  # type: ignore[attr-defined]
    return method


class PairJudge(SourceJudge[PluginFeedback]):
    """The base of judges in other packages: `feedback.source=my_package.judges.Mine feedback.params={…}`.

    A subclass says in `log_odds` how surely one response is better than another. From that the base class makes
    verdicts: it asks in both orders of presentation, takes the mean as the label and half the difference as the
    position bias, and counts what has no answer as invalid. `__init__` takes the parameters of `feedback.params` by
    name; its annotations are checked before a run. One called `seed` gets the run's seed.

    Tokens and dollars that `log_odds` adds to `self.usage` are written beside each verdict. A judge that answers many
    questions at once overrides `judge`, and may call `verdict`.
    """

    keeps: bool = False  # whether verdicts are kept in the store's ledger: for a judge that costs money or time

    @_left_out
    def log_odds(self, prompt: list[Message], a: str, b: str, principle: Principle) -> float | None:
        """log P(a is better) − log P(b is better) under `principle`, where `a` is shown first.

        Raises:
            NoVerdict: there is no answer, and why. None says the same without a reason.
        """
        raise NotImplementedError

    @_left_out
    def rate(self, prompt: list[Message], response: str, criterion: Criterion) -> float | None:
        """How good one response is by `criterion`, in [−1, 1]; for `reward=judge` alone. None, NoVerdict: no answer."""
        raise NotImplementedError

    @classmethod
    def open(cls, settings: PluginFeedback, *, ledger: Path, seed: int, together: Sequence[Principle]) -> Judge:
        made = cls._made(settings, seed)
        return CachedJudge(made, settings, ledger, seed) if made.keeps else made

    @classmethod
    def open_rater(cls, settings: PluginFeedback, *, ledger: Path, highest: int) -> Rater:
        return PairRater(cls._made(settings, 0))

    @classmethod
    def _made(cls, settings: PluginFeedback, seed: int) -> Self:
        found = settings.found()
        made = cls(**found.params, **({"seed": seed} if found.takes_seed else {}))
        if not hasattr(made, "name"):
            made.name = cls.__name__
        return made

    @_left_out
    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked in comparisons:
            before = replace(self.usage)
            forward, why = self._ask(asked, asked.first, asked.second)
            backward, other = self._ask(asked, asked.second, asked.first)
            used = self.usage
            cost = (
                float(used.input_tokens - before.input_tokens),
                float(used.output_tokens - before.output_tokens),
                used.usd - before.usd,
            )
            yield asked, self.verdict(asked, forward, backward, why or other, cost)

    def verdict(
        self,
        asked: Comparison,
        forward: float | None,
        backward: float | None,
        reason: str = "",
        cost: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Verdict:
        """From the log-odds of what is shown first, in both orders; invalid, for `reason`, unless both are there.

        Args:
            forward: with the pair's first response shown first.
            backward: with its second response shown first.
            cost: input tokens, output tokens, US dollars.
        """
        if forward is None or backward is None:
            return Verdict.invalid(asked.id, self.name, reason or NO_ANSWER, forward, backward, cost)
        p, bias = soft_label(forward, backward), position_bias(forward, backward)
        return Verdict(asked.id, p, bias, True, self.name, forward, backward, None, *cost)

    def _ask(self, asked: Comparison, a: str, b: str) -> tuple[float | None, str]:
        self.usage.requests += 1
        try:
            return self._number(self.log_odds(asked.messages, a, b, asked.wording), "log_odds")
        except NoVerdict as error:
            return None, str(error) or NO_ANSWER

    def _number(self, value: object, method: str) -> tuple[float | None, str]:
        """What a method of the subclass gave, or why it is no number."""
        if value is None:
            return None, NO_ANSWER
        try:
            number = float(value)  # type: ignore[arg-type]  # anything that says it is a number, such as a tensor
        except (TypeError, ValueError):
            raise UserError(f"feedback: {method} of the judge '{self.name}' gave {value!r}, no number") from None
        return (number, "") if math.isfinite(number) else (None, NOT_FINITE)


class PairRater:
    """A judge of another package as a rater."""

    def __init__(self, judge: PairJudge) -> None:
        self.name, self.usage, self._judge = judge.name, judge.usage, judge

    def judge(self, asked: Iterable[Single]) -> Iterator[tuple[Single, Rating]]:
        for single in asked:
            self.usage.requests += 1
            try:
                given = self._judge.rate(single.messages, single.response, single.principle)
                score, why = self._judge._number(given, "rate")
            except NoVerdict as error:
                score, why = None, str(error) or NO_ANSWER
            if score is not None and abs(score) > 1.0:
                raise UserError(f"feedback: rate of the judge '{self.name}' gave {score:g}, which is not in [−1, 1]")
            yield single, Rating(single.id, score, self.name, why or None)


class CachedJudge(Judge):
    """A judge of another package whose valid verdicts are kept in the ledger.

    They belong to its source code, its parameters, the seed if it takes one, and the principle's wording.
    """

    remembers = True

    def __init__(self, judge: PairJudge, settings: PluginFeedback, ledger: Path, seed: int) -> None:
        found = settings.found()
        path = f"{type(judge).__module__}.{type(judge).__qualname__}"
        identity = [path, source_identity(type(judge), path), settings.params, seed if found.takes_seed else None]
        self.name, self._judge = judge.name, judge
        self._ledger = Ledger(ledger)

        def scope(principle: Principle) -> tuple[bytes, str]:
            key = key_of("plugin", str(identity), [], principle.model_dump(mode="json"))
            return key, f"{principle.name}, {path}"

        self._cache = VerdictCache(self.name, self._ledger, scope)

    @cached_property
    def usage(self) -> Usage:
        return self._judge.usage

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        for asked, verdict in self._judge.judge(comparisons):
            if verdict.valid:
                self._cache.keep(asked.wording, verdict)
            yield asked, verdict

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        return self._cache.recall(principle, pair_ids)

    def finish(self) -> dict[str, int]:
        return self._judge.finish()
