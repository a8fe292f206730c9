"""A language model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from morlaif.errors import MachineError, UserError
from morlaif.feedback.answering import (
    ReplyNames,
    adopt,
    confirm,
    is_identified,
    known_fingerprint,
    reached,
    remember,
    settle,
)
from morlaif.feedback.budget import Budget
from morlaif.feedback.chat import ChatClient, NoLogprobs, Rejected
from morlaif.feedback.checking import Checked
from morlaif.feedback.chunks import Verdicts
from morlaif.feedback.detached import ask_detached
from morlaif.feedback.draws import ALIKE, Draws
from morlaif.feedback.judge import SourceJudge
from morlaif.feedback.ledger import OK, Answer, Ledger, new_owner
from morlaif.feedback.limiter import Limiter, Stopped
from morlaif.feedback.modes import Asking, Mode, Question, Reading, mass_in, mode_of, stored
from morlaif.feedback.outcomes import NO_LOGPROBS, advice, tells_of_logprobs
from morlaif.feedback.rating import Rated, Rating, Single
from morlaif.feedback.reach import ServerCheck, api_key
from morlaif.feedback.reading import most_usd, reading
from morlaif.feedback.records import Comparison, Usage, Verdict
from morlaif.feedback.reply import Garbled, Reply, parse
from morlaif.feedback.rubric import Checklist, Listed, Ratings
from morlaif.feedback.served import Served
from morlaif.feedback.settings import OpenAISettings, Principle
from morlaif.feedback.stream import Emit, iterate
from morlaif.feedback.verdict_cache import VerdictCache

A = TypeVar("A", bound=Comparison | Single | Checklist)
V = TypeVar("V", bound=Verdict | Rating | Ratings)
T = TypeVar("T")
log = logging.getLogger("morlaif.feedback")

ELSEWHERE = 0.05  # seconds between two looks for an answer that another process is waiting for
MOST_SYSTEMS = 8  # fingerprints of a server's systems that are recorded
ORDERS = 2  # questions of a verdict, which are asked side by side
ENOUGH = 100  # verdicts after which a low share of valid ones stops the work


class Chat(Generic[A, V]):
    """Asks the server what the ledger does not know: by log-probabilities where the model gives them, else by votes."""

    def __init__(self, settings: OpenAISettings, ledger: Path) -> None:
        self.name = f"openai:{settings.model}"
        self.usage = Usage()
        self._settings = settings
        self._path = ledger
        self._owner = new_owner()
        self._limiter: Limiter | None = None
        self._probe_key: bytes | None = None  # answered in this run, though it will be found in the ledger
        self._provider = settings.who_at
        self._settled = False  # whether it is known which model answers, as far as the server tells
        self._logprobs: bool | None = None  # whether the model gives log-probabilities; None: not known yet

    @cached_property
    def _mode(self) -> Asking[A, V]:
        """How it asks; the keys of its questions hold which model answers, so that must be settled."""
        raise NotImplementedError

    @property
    def _made_of(self) -> tuple[Any, ...]:
        """The arguments that make one like this in another process."""
        raise NotImplementedError

    def _keep(self, asked: A, verdict: V) -> None:
        """Write down a valid verdict besides the answers that it follows from."""

    def _settle(self) -> None:
        """Find out which model answers. What is known of one that is named belongs to it, whoever answers now."""
        if self._settled:
            return
        if self._settings.served is None:
            self._settings = settle(self._settings, self._path, say=self._say)
        if Path(self._path).is_file():
            with Ledger(self._path) as ledger:
                served = confirm(self._settings, ledger).served if self._settings.served == "" else None
                adopt(ledger, self._settings, served)
                self._note(ledger, served)
        self._settled = True

    def _note(self, ledger: Ledger, served: Served | None) -> None:
        """Record which model answers, beside the counters."""
        name = ReplyNames(self._settings, ledger, served).name
        fingerprint = dict(served.fingerprint) if served else known_fingerprint(ledger, self._settings)
        self.usage.served = {
            "id": self._settings.served or None,
            "name": name or (served and served.name),
            **fingerprint,
        }

    def _say(self, line: str) -> None:
        if line not in self.usage.warnings:
            self.usage.warnings.append(line)
            log.warning(line)

    def judge(self, comparisons: Iterable[A]) -> Iterator[tuple[A, V]]:
        waiting = iter(comparisons)
        if (first := next(waiting, None)) is None:
            return  # with nothing to ask, not even a key is needed
        waiting = itertools.chain([first], waiting)
        api_key(self._settings)  # a missing key is an error here, before anything else
        self._settle()
        if self._settings.delivery == "batch":
            yield from self._in_batches(first, waiting)
        elif self._settings.survive_kill:
            yield from ask_detached(type(self), self._made_of, waiting, self.usage)
        else:
            yield from iterate(lambda emit: self.run(waiting, emit))

    def _in_batches(self, first: A, waiting: Iterator[A]) -> Iterator[tuple[A, V]]:
        """By the batch interface; `first` is the first of `waiting`."""
        raise NotImplementedError

    async def run(self, comparisons: Iterable[A], emit: Emit[tuple[A, V]]) -> None:
        """As many workers as requests may be in flight, each taking the next pair when it is free.

        When one finds that it cannot go on, nothing more is sent, and the error is raised after the others' replies
        have come home into the ledger.
        """
        outcomes: Counter[str] = Counter()
        pairs = (list(group) for _, group in itertools.groupby(comparisons, key=lambda asked: asked.id))
        settings = self._settings
        self._limiter = limiter = Limiter(
            settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute, settings.timeout
        )
        failures: list[UserError | MachineError] = []

        async def done(asked: A) -> None:
            try:
                verdict = await self._verdict(asked)
                outcomes[verdict.reason or OK] += 1
                if outcomes.total() == ENOUGH:
                    self._check(outcomes)
            except (UserError, MachineError):
                limiter.close()  # at once, before another request can leave
                raise
            await emit((asked, verdict))

        async def work() -> None:
            try:
                for pair in pairs:
                    if settings.order == "pair" and len(pair) > 1:
                        async with limiter.group(ORDERS):
                            for asked in pair:  # each finds the prefix that they share at the server
                                await done(asked)
                    else:
                        await _all(done(asked) for asked in pair)
            except Stopped:
                pass
            except (UserError, MachineError) as error:
                failures.append(error)

        with Ledger(self._path) as self._ledger:
            self._write = Writer(self._ledger)
            self._draws = Draws(settings.votes, self._ledger.recall(self._fact_of_draws) == "alike")
            self._budget = Budget(settings.budget_usd, self._ledger, settings.patience + 2 * settings.timeout)
            self._watch = ReplyNames(settings, self._ledger)
            if self.usage.served is None:
                self._note(self._ledger, None)
            async with ChatClient(
                settings, limiter, self.usage, reached=reached(self._ledger, settings), look=self._look,
                arrived=lambda: reached(self._ledger, settings, now=True),
            ) as self._client:  # fmt: skip
                self._flying: dict[bytes, asyncio.Future[tuple[Answer, Reply | None]]] = {}
                self._probing = asyncio.Lock()
                if (known := self._known_logprobs(self._ledger)) is not None:
                    self._announce(known)
                async with asyncio.TaskGroup() as group:
                    for _ in range(settings.concurrency):
                        group.create_task(work())
        if failures:
            raise failures[0]
        self._check(outcomes)

    def _look(self) -> ServerCheck:
        """Who answers at the moment; in a thread of its own, with the ledger open a second time."""
        with Ledger(self._path) as ledger:
            found = confirm(self._settings, ledger, fresh=0.0)
            if found.state == "up":
                remember(ledger, self._settings, found.served)
                self._watch.know(found.served)
                self._note(ledger, found.served)
                if found.served is not None and found.served.slots and self._limiter is not None:
                    self._limiter.bound(found.served.slots)
            elif found.state == "away" and not is_identified(self._settings, ledger):
                return ServerCheck("wrong", found.line)  # perhaps it answers questions and nothing else: that will show
            return found

    def stop(self) -> None:
        """Send nothing more; what is on its way still comes home into the ledger."""
        if self._limiter is not None:
            self._limiter.close()

    def _check(self, outcomes: Counter[str]) -> None:
        """Stop where most replies are of no use: the labels would be few, and not a fair sample."""
        valid, all_of_them = (count + self.usage.recalled for count in (outcomes[OK], outcomes.total()))
        if valid < self._settings.min_validity * all_of_them:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in outcomes.most_common(4) if reason != OK)
            raise UserError(
                f"feedback from {self._settings.model}: only {valid} of {all_of_them} verdicts are valid "
                f"({reasons}), fewer than feedback.min_validity={self._settings.min_validity:g}. "
                f"Try another model, or lower the limit.{advice(outcomes)}"
            )

    async def _verdict(self, asked: A) -> V:
        if self._logprobs is None and (reason := await self._probe(asked)):
            return self._mode.invalid(asked, self.name, reason)
        logprobs = bool(self._logprobs)
        questions = self._mode.questions(asked, logprobs)
        readings = await _all(self._answer(question) for question in self._draws.needed(questions))
        readings = self._draws.whole(questions, readings)
        if self._draws.saw(questions, readings):
            self._once()
        verdict = self._mode.verdict(asked, readings, logprobs, self.name)
        if verdict.valid:
            await self._write(lambda: self._keep(asked, verdict))
        return verdict

    def _once(self) -> None:
        """Draws never differ: say so, and remember it for the runs to come."""
        votes = self._settings.votes
        self._ledger.remember(self._fact_of_draws, "alike")
        self._say(
            f"WARNING: all {votes} answers that {self._settings.model} drew to each of {ALIKE} questions were alike: "
            f"its server ignores feedback.vote_temperature, or it is certain of everything. From here on each question "
            f"is asked once and counts as {votes} answers."
        )

    @property
    def _fact_of_draws(self) -> str:
        settings = self._settings
        where = f"{self._provider}, {settings.mode}, temperature {settings.vote_temperature:g}"
        return f"draws of {settings.who} at {where}"

    async def _answer(self, question: Question) -> Reading:
        """From the ledger, from a request on its way, or from the server; new answers enter the ledger at once."""
        key = self._mode.key(question)
        if flying := self._flying.get(key):
            return reading(question, *await asyncio.shield(flying))
        known = self._ledger.get(key)
        if known and (known.outcome == OK or not self._settings.ask_again):
            self.usage.cached += key != self._probe_key
            return self._known(question, key, known)
        self._flying[key] = future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(await self._ask(question, key, known))
            return reading(question, *future.result())
        except BaseException as error:
            future.set_exception(Stopped() if isinstance(error, asyncio.CancelledError) else error)
            future.exception()  # there may be nobody else to look at it
            raise
        finally:
            del self._flying[key]

    def _known(self, question: Question, key: bytes, answer: Answer) -> Reading:
        raw = self._ledger.raw(key) if question.field is not None and answer.outcome == OK else None
        try:
            return reading(question, answer, parse(raw) if raw else None)
        except Garbled as error:
            return reading(question, replace(answer, value=None, outcome=str(error)[:200]), None)

    async def _ask(self, question: Question, key: bytes, known: Answer | None) -> tuple[Answer, Reply | None]:
        try:
            return await self._request(question, key, known)
        except Rejected as error:
            return Answer(
                None, f"rejected: {error}"[:200]
            ), None  # nothing paid, nothing recorded: asked again next time
        except NoLogprobs as error:
            raise UserError(f"feedback from {self._settings.model}: {error}. Set feedback.logprobs=never.") from None

    async def _request(self, question: Question, key: bytes, before: Answer | None) -> tuple[Answer, Reply | None]:
        """Send it, within the budget, unless another process is at it; the answer enters the ledger at once.

        `before` is what the caller found in the ledger: what has come since is another process's answer.
        """
        while not await self._claimed(key):
            assert self._limiter is not None  # it runs
            await self._limiter.sleep(ELSEWHERE)
        try:
            known = self._ledger.get(key)
            if known is not None and known != before:  # another process has just asked
                await self._write(lambda: self._ledger.unclaim(key))
                raw = self._ledger.raw(key)
                return known, parse(raw) if raw else None
            async with self._budget.reserve(most_usd(question, self._settings)):
                reply = await self._client.ask(question.messages, question.decoding)
                answer = self._paid(reply, *stored(question)(reply))
                self.usage.weigh(mass_in(question.read, reply))
                await self._held(reply, answer)
                await self._write(lambda: self._ledger.put(key, self._provider, self._settings.who, answer, reply.raw))
            return answer, reply
        except BaseException:
            await self._write(lambda: self._ledger.unclaim(key))
            raise

    async def _held(self, reply: Reply, answer: Answer) -> None:
        """Take no other model's reply; what it cost is counted all the same."""
        before = self._watch.name
        try:
            self._watch(reply)
        except UserError:
            await self._write(lambda: self._ledger.lose(answer.usd))
            raise
        about = self.usage.served
        if about is not None and self._watch.name != before:
            about["name"] = self._watch.name
        if about is not None and reply.fingerprint and len(about.setdefault("systems", [])) < MOST_SYSTEMS:
            about["systems"] = sorted({*about["systems"], reply.fingerprint})

    async def _claimed(self, key: bytes) -> bool:
        got: list[bool] = []
        stale = self._settings.patience + 2 * self._settings.timeout
        await self._write(lambda: got.append(self._ledger.claim(key, self._owner, stale)))
        return got[0]

    def _paid(self, reply: Reply, value: float | None, outcome: str) -> Answer:
        usd = self._settings.price.usd(reply.input_tokens, reply.output_tokens)
        self.usage.input_tokens += reply.input_tokens
        self.usage.output_tokens += reply.output_tokens
        self.usage.usd += usd
        return Answer(value, outcome, reply.input_tokens, reply.output_tokens, usd)

    def _known_logprobs(self, ledger: Ledger) -> bool | None:
        if self._logprobs is None:
            self._logprobs = self._mode.known_logprobs(ledger)
        return self._logprobs

    async def _probe(self, asked: A) -> str | None:
        """Find out with a first real question, while the others wait. A good answer is kept like any other.

        Returns the reason why this question showed nothing about the model (a refusal), so that the next one must.
        """
        async with self._probing:
            if self._logprobs is not None:
                return None
            question = self._mode.questions(asked, True)[0]
            key = self._mode.key(question)
            try:
                answer = self._ledger.get(key) or (await self._request(question, key, None))[0]
            except Rejected as error:
                return f"rejected: {error}"[:200]
            except NoLogprobs:
                found = False
            else:
                self._probe_key = key
                if not tells_of_logprobs(answer.outcome):
                    return answer.outcome
                found = answer.outcome != NO_LOGPROBS
            self._ledger.remember(self._mode.fact, "yes" if found else "no")
            self._announce(found)
            self._logprobs = found
            return None

    def _announce(self, logprobs: bool) -> None:
        self.usage.method = "logprob" if logprobs else "vote"
        if not logprobs:
            self._say(
                f"{self._settings.model} gives no log-probabilities: {self._mode.said_of_votes()}, "
                f"{self._settings.votes} times the requests for a coarser answer"
            )


class ChatJudge(Chat[Comparison, Verdict], SourceJudge[OpenAISettings]):
    """Two responses, compared."""

    remembers = True

    def __init__(self, settings: OpenAISettings, ledger: Path, together: Sequence[Principle] = ()) -> None:
        super().__init__(settings, ledger)
        self._together = tuple(together)
        self._scopes: dict[tuple[str, bool], tuple[bytes, str]] = {}
        self._cache: VerdictCache | None = None
        self._kept: tuple[Ledger, VerdictCache] | None = None  # of the run that is on

    @classmethod
    def open(cls, settings: OpenAISettings, *, ledger: Path, seed: int, together: Sequence[Principle]) -> ChatJudge:
        return cls(settings, ledger, together)

    @classmethod
    def open_rater(cls, settings: OpenAISettings, *, ledger: Path, highest: int) -> ChatRater:
        return ChatRater(settings, ledger, highest)

    @classmethod
    def open_checklist(cls, settings: OpenAISettings, *, ledger: Path, highest: int) -> ChatChecklist:
        return ChatChecklist(settings, ledger, highest)

    @classmethod
    def open_checker(cls, settings: OpenAISettings, *, ledger: Path) -> ChatChecker:
        return ChatChecker(settings, ledger)

    @cached_property
    def _mode(self) -> Mode:
        return mode_of(self._settings, self._together)

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self._settings, self._path, self._together

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts:
        self._settle()
        if self._cache is None:
            ledger = Ledger(self._path)
            self._cache = VerdictCache(self.name, ledger, lambda p: self._scope(p, self._known_logprobs(ledger)))
        return self._cache.recall(principle, pair_ids)

    def _keep(self, asked: Comparison, verdict: Verdict) -> None:
        if self._kept is None or self._kept[0] is not self._ledger:
            cache = VerdictCache(self.name, self._ledger, lambda p: self._scope(p, self._logprobs))
            self._kept = self._ledger, cache
        self._kept[1].keep(asked.wording, verdict)

    def _scope(self, principle: Principle, logprobs: bool | None) -> tuple[bytes, str] | None:
        if logprobs is None:
            return None
        if (principle.name, logprobs) not in self._scopes:
            self._scopes[principle.name, logprobs] = self._mode.scope(principle, logprobs)
        return self._scopes[principle.name, logprobs]

    def _in_batches(self, first: Comparison, waiting: Iterator[Comparison]) -> Iterator[tuple[Comparison, Verdict]]:
        from morlaif.feedback.sources.batch import deliver

        with Ledger(self._path) as ledger:
            known = self._known_logprobs(ledger)
            if known is None:  # one question is asked alone, to find out how
                list(iterate(lambda emit: self.run([first], emit)))
                known = bool(self._known_logprobs(ledger))
            self.usage.method = "logprob" if known else "vote"
            found = confirm(self._settings, ledger)
            remember(ledger, self._settings, found.served)
            watch = ReplyNames(self._settings, ledger, found.served)
            yield from deliver(
                self._settings, self._mode, ledger, waiting, known, self.usage, self._scope, self.name, watch
            )
            self._note(ledger, found.served)


class ChatRater(Chat[Single, Rating]):
    """Single responses, rated from 1 to `highest`. Its answers are few enough to be looked up one by one."""

    def __init__(self, settings: OpenAISettings, ledger: Path, highest: int) -> None:
        super().__init__(settings, ledger)
        self._highest = highest

    @cached_property
    def _mode(self) -> Rated:
        return Rated(self._settings, self._highest)

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self._settings, self._path, self._highest


class ChatChecklist(Chat[Checklist, Ratings]):
    """Single responses, each rated by criteria of its own in one request."""

    def __init__(self, settings: OpenAISettings, ledger: Path, highest: int) -> None:
        super().__init__(settings, ledger)
        self._highest = highest

    @cached_property
    def _mode(self) -> Listed:
        return Listed(self._settings, self._highest)

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self._settings, self._path, self._highest


class ChatChecker(Chat[Single, Rating]):
    """Questions about single responses, answered with yes or no."""

    @cached_property
    def _mode(self) -> Checked:
        return Checked(self._settings)

    @property
    def _made_of(self) -> tuple[Any, ...]:
        return self._settings, self._path


class Writer:
    """Writes to a ledger whatever comes up within one turn of the event loop as one transaction, and then goes on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writes: list[tuple[Callable[[], None], asyncio.Future[None]]] = []

    async def __call__(self, write: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if not self._writes:
            loop.call_soon(self._flush)
        self._writes.append((write, written := loop.create_future()))
        await asyncio.shield(written)

    def _flush(self) -> None:
        writes, self._writes = self._writes, []
        error = None
        try:
            with self._ledger.transaction():
                for write, _ in writes:
                    write()
        except Exception as failure:  # a full disk, say: whoever wrote must know
            error = failure
        for _, written in writes:
            if not written.done():
                written.set_exception(error) if error else written.set_result(None)


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all. If one fails, the others are still awaited: what is on its way is paid for."""
    made: list[T] = []
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        made.append(result)
    return made
