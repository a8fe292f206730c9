"""A language model behind an OpenAI-compatible server, asked for one letter in both orders."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from morlaif.errors import UserError
from morlaif.feedback.arithmetic import gap, gap_from_votes, letter_in, letter_of, position_bias, soft_label
from morlaif.feedback.chat import ChatClient, NoLogprobs, Rejected, Reply
from morlaif.feedback.ledger import OK, Answer, Ledger, key_of
from morlaif.feedback.limiter import Limiter, Stopped
from morlaif.feedback.prompt import comparison_messages
from morlaif.feedback.purse import Purse
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.settings import OpenAISettings
from morlaif.feedback.stream import Emit, iterate

T = TypeVar("T")
log = logging.getLogger("morlaif.feedback")

NO_LOGPROBS = "no log-probabilities"
ENOUGH = 100  # verdicts after which a low share of valid ones stops the work


@dataclass(frozen=True, slots=True)
class Question:
    """One request: the options in one order, and how the reply is decoded."""

    messages: list[dict[str, str]]
    decoding: dict[str, Any]
    sample: int  # which of several draws

    @property
    def by_logprobs(self) -> bool:
        return "logprobs" in self.decoding


class OpenAIJudge:
    """Asks the server what the ledger does not know: by log-probabilities where the model gives them, else by votes."""

    def __init__(self, settings: OpenAISettings, ledger: Path) -> None:
        self.name = f"openai:{settings.model}"
        self.usage = Usage()
        self._settings = settings
        self._path = ledger
        self._probe_key: bytes | None = None  # answered in this run, though it will be found in the ledger
        self._provider = settings.provider or settings.base_url.rstrip("/")
        self._fact = f"logprobs of {settings.model} at {self._provider}"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        return iterate(lambda emit: self._run(comparisons, emit))

    def truth(self, comparison: Comparison) -> None:
        return None

    async def _run(self, comparisons: Iterable[Comparison], emit: Emit) -> None:
        """As many workers as requests may be in flight, each taking the next comparison when it is free.

        When one finds that it cannot go on, nothing more is sent, and the error is raised after the others' replies
        have come home into the ledger.
        """
        outcomes: Counter[str] = Counter()
        waiting = iter(comparisons)
        settings = self._settings
        limiter = Limiter(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        failures: list[UserError] = []

        async def work() -> None:
            try:
                for asked in waiting:
                    verdict = await self._verdict(asked)
                    outcomes[verdict.reason or OK] += 1
                    if outcomes.total() == ENOUGH:
                        self._check(outcomes)
                    await emit((asked, verdict))
            except Stopped:
                pass
            except UserError as error:
                failures.append(error)
                limiter.close()

        with Ledger(self._path) as self._ledger:
            self._purse = Purse(settings.budget_usd, self._ledger.spent)
            async with ChatClient(self._settings, limiter, self.usage) as self._client:
                self._flying: dict[bytes, asyncio.Future[Answer]] = {}
                self._probing = asyncio.Lock()
                self._logprobs = self._known_logprobs()
                async with asyncio.TaskGroup() as group:
                    for _ in range(settings.concurrency):
                        group.create_task(work())
        if failures:
            raise failures[0]
        self._check(outcomes)

    def _check(self, outcomes: Counter[str]) -> None:
        """Stop where most replies are of no use: the labels would be few, and not a fair sample."""
        if outcomes.total() and outcomes[OK] < self._settings.min_validity * outcomes.total():
            reasons = ", ".join(f"{n} × {reason}" for reason, n in outcomes.most_common(4) if reason != OK)
            raise UserError(
                f"feedback from {self._settings.model}: only {outcomes[OK]} of {outcomes.total()} verdicts are valid "
                f"({reasons}), fewer than feedback.min_validity={self._settings.min_validity:g}. "
                "Try another model, or lower the limit."
            )

    async def _verdict(self, asked: Comparison) -> Verdict:
        """Both orders; the verdict is valid only if both are, since one alone carries the judge's position bias."""
        orders = ((asked.first, asked.second), (asked.second, asked.first))
        prompts = [comparison_messages(asked.messages, a, b, asked.principle) for a, b in orders]
        if self._logprobs is None and (reason := await self._probe(prompts[0])):
            return Verdict.invalid(asked.id, self.name, reason)
        (forward, reason), (backward, reason_back) = await _all(self._gap(prompt) for prompt in prompts)
        if forward is None or backward is None:
            return Verdict.invalid(asked.id, self.name, reason or reason_back or "no answer", forward, backward)
        p, bias = soft_label(forward, backward), position_bias(forward, backward)
        return Verdict(asked.id, p, bias, True, self.name, forward, backward)

    async def _gap(self, messages: list[dict[str, str]]) -> tuple[float | None, str | None]:
        """Log-odds of option A as shown in `messages`, or None and the reason."""
        if self._logprobs:
            answer = await self._answer(self._question(messages, 0))
            return answer.value, None if answer.value is not None else answer.outcome
        draws = await _all(self._answer(self._question(messages, i)) for i in range(self._settings.votes))
        letters = Counter(draw.value for draw in draws if draw.value is not None)
        value = gap_from_votes(letters[1.0], letters[-1.0])
        return value, None if value is not None else draws[0].outcome

    def _question(self, messages: list[dict[str, str]], sample: int, logprobs: bool | None = None) -> Question:
        settings = self._settings
        decoding: dict[str, Any] = {**settings.extra_body, settings.max_tokens_key: settings.max_tokens}
        if self._logprobs if logprobs is None else logprobs:
            decoding |= {"temperature": 0.0, "logprobs": True, "top_logprobs": settings.top_logprobs}
        else:
            decoding |= {"temperature": settings.vote_temperature}
        return Question(messages, decoding, sample)

    async def _answer(self, question: Question) -> Answer:
        """From the ledger, from a request on its way, or from the server; new answers enter the ledger at once."""
        key = key_of(self._provider, self._settings.model, question.messages, question.decoding, question.sample)
        if flying := self._flying.get(key):
            return await asyncio.shield(flying)
        known = self._ledger.get(key)
        if known and (known.outcome == OK or not self._settings.ask_again):
            self.usage.cached += key != self._probe_key
            return known
        self._flying[key] = future = asyncio.get_running_loop().create_future()
        try:
            answer = await self._ask(question, key)
            future.set_result(answer)
            return answer
        except BaseException as error:
            future.set_exception(Stopped() if isinstance(error, asyncio.CancelledError) else error)
            future.exception()  # there may be nobody else to look at it
            raise
        finally:
            del self._flying[key]

    async def _ask(self, question: Question, key: bytes) -> Answer:
        try:
            return await self._request(question, key)
        except Rejected as error:
            return Answer(None, f"rejected: {error}"[:200])  # nothing was paid, nothing recorded: asked again next time
        except NoLogprobs as error:
            raise UserError(f"feedback from {self._settings.model}: {error}. Set feedback.logprobs=never.") from None

    async def _request(self, question: Question, key: bytes) -> Answer:
        """Send it, within the budget; the answer enters the ledger at once."""
        price = self._settings.price
        # a token is at least a byte
        most = sum(len(m["content"].encode()) + 16 for m in question.messages) * price.input / 1e6
        most += self._settings.max_tokens * price.output / 1e6
        async with self._purse.reserve(most):
            reply = await self._client.ask(question.messages, question.decoding)
            answer = self._paid(reply, *read(reply, question.by_logprobs))
            self._ledger.put(key, self._provider, self._settings.model, answer, reply.raw)
        return answer

    def _paid(self, reply: Reply, value: float | None, outcome: str) -> Answer:
        price = self._settings.price
        usd = (reply.input_tokens * price.input + reply.output_tokens * price.output) / 1e6
        self.usage.input_tokens += reply.input_tokens
        self.usage.output_tokens += reply.output_tokens
        self.usage.usd += usd
        return Answer(value, outcome, reply.input_tokens, reply.output_tokens, usd)

    def _known_logprobs(self) -> bool | None:
        """Whether the model gives log-probabilities: as configured, or as an earlier run found out; None: unknown."""
        known = {"always": "yes", "never": "no"}.get(self._settings.logprobs) or self._ledger.recall(self._fact)
        if known is None:
            return None
        self._announce(known == "yes")
        return known == "yes"

    async def _probe(self, messages: list[dict[str, str]]) -> str | None:
        """Find out with a first real question, while the others wait. A good answer is kept like any other.

        Returns the reason why this question told nothing about the model (a refusal), so that the next one must.
        """
        async with self._probing:
            if self._logprobs is not None:
                return None
            question = self._question(messages, 0, logprobs=True)
            key = key_of(self._provider, self._settings.model, question.messages, question.decoding)
            try:
                answer = self._ledger.get(key) or await self._request(question, key)
            except Rejected as error:
                return f"rejected: {error}"[:200]
            except NoLogprobs:
                found = False
            else:
                self._probe_key = key
                if answer.outcome in ("refusal", "empty reply"):
                    return answer.outcome
                found = answer.outcome != NO_LOGPROBS
            self._ledger.remember(self._fact, "yes" if found else "no")
            self._announce(found)
            self._logprobs = found
            return None

    def _announce(self, logprobs: bool) -> None:
        self.usage.method = "logprob" if logprobs else "vote"
        if not logprobs and not self.usage.said:
            votes = self._settings.votes
            self.usage.said.append(
                f"{self._settings.model} gives no log-probabilities: labels come from {votes} sampled "
                f"letter{'s' if votes > 1 else ''} for each order, {votes} times the requests for a coarser label"
            )
            log.warning(self.usage.said[-1])


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all. If one fails, the others are still awaited: what is on its way is paid for."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def read(reply: Reply, by_logprobs: bool) -> tuple[float | None, str]:
    """The number in a reply (the gap d, or ±1 for a letter A or B) and OK; or None and what is wrong."""
    if reply.refusal or reply.finish == "content_filter":
        return None, "refusal"
    if by_logprobs:
        if not reply.tokens:
            return None, NO_LOGPROBS if reply.text else "empty reply"
        at = next((tokens for tokens in reply.tokens if tokens and letter_of(tokens[0][0])), reply.tokens[0])
        value = gap(at)
    else:
        value = {"A": 1.0, "B": -1.0, None: None}[letter_in(reply.text or "")]
    return (value, OK) if value is not None else (None, "no letter")
