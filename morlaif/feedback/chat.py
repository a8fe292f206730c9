"""One chat request to an OpenAI-compatible server: sent, repeated where that helps, given up where it cannot."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from morlaif.data.records import Message
from morlaif.errors import MachineError, UserError
from morlaif.feedback.limiter import Limiter
from morlaif.feedback.reach import FATAL_CODES, ServerCheck, api_key, explain_silence, is_here
from morlaif.feedback.records import Usage
from morlaif.feedback.reply import Garbled, HandedOn, Reply, parse
from morlaif.feedback.settings import OpenAISettings
from morlaif.texts import redact

LONGEST_BACKOFF = 60.0  # seconds
LONGEST_LOOK = 5.0  # seconds between two looks whether a server is back
TRIES_UNREACHED = 4  # a server that has never answered is not waited for as long as one that has
LONGEST_REPLY = 16 << 20  # bytes; a long answer with its log-probabilities has a tenth of that
_TOO_LONG = f"a reply of more than {LONGEST_REPLY >> 20} MiB"
KEPT = "What was answered is kept."
ROW_CODES = (
    "context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation",
    "invalid_prompt",
)  # fmt: skip
# local servers have no code for it: vLLM, SGLang (length), llama.cpp (size)
_NO_ROOM = re.compile(r"(context|maximum input|maximum model) (length|size|window)", re.IGNORECASE)


class Rejected(Exception):
    """The server will not answer this one question (too long, filtered); others may fare better."""


class NoLogprobs(Exception):
    """The server answered that the model gives no log-probabilities."""


class NotYet(Exception):
    """The server is away, or not ready: found before anything was sent."""


TRANSIENT = (
    openai.APIConnectionError, openai.InternalServerError, openai.ConflictError, TimeoutError, Garbled, NotYet,
)  # fmt: skip


class ChatClient:
    """An asynchronous client with our own retries, which are counted and give way to a pause of the whole client."""

    def __init__(
        self,
        settings: OpenAISettings,
        limiter: Limiter,
        usage: Usage,
        *,
        reached: bool = False,
        look: Callable[[], ServerCheck] | None = None,
        arrived: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            reached: whether the server has answered before, in this run or a recent one.
            look: looks who answers, before the first question and whenever the server was away; raises UserError for
                another model. None: it is not asked.
            arrived: called at an answer, once a minute at most.
        """
        self._settings, self._limiter, self._usage = settings, limiter, usage
        self._key = api_key(settings)
        self._reached, self._look, self._arrived, self._marked = reached, look, arrived, 0.0
        self._answered = False  # whether it has answered a question of ours, which so were good ones
        self._unsure, self._looking, self._look_again = look is not None, asyncio.Lock(), 0.0
        self._last = ""  # what the last look found
        self._per_character = 0.3  # tokens; corrected by what replies say that they used
        limits = httpx2.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits,
                timeout=settings.timeout,
                follow_redirects=False,
                trust_env=not is_here(settings.base_url),
                event_hooks={"response": [_bound]},
            ),
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: list[Message], decoding: Mapping[str, Any]) -> Reply:
        """Send one request, and see it through.

        Raises:
            UserError: no request can succeed (key, model, address, money).
            MachineError: the server's trouble outlasts our patience.
            Stopped: the limiter was closed while this request had not been sent.
            Rejected: this request cannot succeed.
            NoLogprobs: log-probabilities were asked for, and this model has none.
        """
        trouble = Trouble()
        sent = 0.0
        expected = self._tokens(messages, decoding)
        while True:
            try:
                await self._make_sure()
                async with self._limiter.slot(expected):
                    sent = asyncio.get_running_loop().time()
                    reply = await self._send(messages, decoding)
                self._settle(reply, messages, expected, sent)
                return reply
            except openai.RateLimitError as error:
                self._pushed_back(error, trouble, sent)
            except TRANSIENT as error:
                await self._repeat(error, trouble, sent)
            except openai.APIStatusError as error:
                if error.status_code != 408:
                    raise self._verdict_on(error) from None
                await self._repeat(error, trouble, sent)

    async def _make_sure(self) -> None:
        """Look who answers, if that is not certain: one looks for all."""
        if not self._unsure or self._look is None:
            return
        async with self._looking:
            if not self._unsure:
                return
            if time.monotonic() < self._look_again:
                raise NotYet(self._last)
            found = await asyncio.to_thread(self._look)
            if found.state in ("loading", "away"):
                self._last, self._look_again = found.line.partition(": ")[2] or found.line, time.monotonic() + 0.2
                self._reached |= found.state == "loading"
                raise NotYet(self._last)
            self._reached |= found.state == "up"
            self._unsure = False

    def _tokens(self, messages: list[Message], decoding: Mapping[str, Any]) -> float:
        """What a request will use at most, by the tokens a character took so far."""
        most_written = decoding[self._settings.max_tokens_key]
        return sum(len(message["content"]) for message in messages) * self._per_character + most_written

    def _settle(self, reply: Reply, messages: list[Message], expected: float, sent: float) -> None:
        """Count a good reply, and tell the limiter what it really took."""
        self._reached = self._answered = True
        if time.monotonic() - self._marked > 60.0:
            self._marked = time.monotonic()
            self._arrived()
        self._usage.requests += 1
        self._limiter.succeeded(sent)
        if reply.input_tokens:
            self._limiter.tokens.settle(expected - reply.input_tokens - reply.output_tokens)
            measured = reply.input_tokens / sum(len(message["content"]) for message in messages)
            self._per_character += 0.1 * (measured - self._per_character)

    async def _send(self, messages: list[Message], decoding: Mapping[str, Any]) -> Reply:
        # a plain post: the typed wrapper would drop fields that some servers want and others give
        body = {"model": self._settings.model, "messages": messages, **decoding}
        async with asyncio.timeout(self._settings.timeout):  # the whole reply, however slowly it drips
            response = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        self._limiter.learn(response.headers)
        text = response.text
        if not self._answered and text.lstrip()[:1] == "<":
            raise UserError(
                f"{self._where}: a page of HTML in place of JSON. Check feedback.base_url: no chat completions are "
                "answered there (most servers want /v1 at its end)."
            )
        return parse(self._hide(text))

    def _pushed_back(self, error: openai.RateLimitError, trouble: Trouble, sent: float) -> None:
        """Pause all requests after a 429."""
        if error.code in FATAL_CODES or error.type in FATAL_CODES:
            raise self._broke(error) from None
        trouble.waits += 1
        asked = retry_after(error.response.headers)
        seconds = self._backoff(trouble.waits) if asked is None else asked * random.uniform(1.0, 1.05)
        if trouble.waited + seconds > self._settings.patience:
            raise UserError(
                f"{self._where}: rate limited for longer than feedback.patience={self._settings.patience:g} s "
                f"({self._reason(error)}). {KEPT} Run again later, or lower feedback.concurrency."
            ) from None
        trouble.waited += seconds
        self._usage.waits += 1
        self._limiter.learn(error.response.headers)
        self._limiter.pushed_back(seconds, since=sent, refused=True)

    def _backoff(self, times: int, longest: float = LONGEST_BACKOFF) -> float:
        return min(self._settings.backoff * 2.0 ** min(times - 1, 20), longest) * random.uniform(0.5, 1.0)

    async def _repeat(self, error: Exception, trouble: Trouble, sent: float) -> None:
        """Wait before a repetition, or give up: a server that is away or loading gets all our patience, other trouble a
        number of tries."""
        down = self._is_down(error)
        if down:
            self._unsure = self._look is not None  # another one may come back in its place
            trouble.downs += 1
            seconds = self._backoff(trouble.downs, LONGEST_LOOK)
        else:
            trouble.failures += 1
            seconds = self._backoff(trouble.failures)
        if isinstance(error, openai.APIStatusError) and (asked := retry_after(error.response.headers)) is not None:
            seconds = max(seconds, min(asked, self._settings.patience))
        most = self._settings.retries if self._reached else min(self._settings.retries, TRIES_UNREACHED)
        if down and trouble.waited + seconds > self._settings.patience:
            raise MachineError(
                f"{self._where}: the server was away or not ready for longer than feedback.patience="
                f"{self._settings.patience:g} s ({self._reason(error)}). {KEPT} Start it, then run the same command "
                "again."
            ) from None
        if not down and trouble.failures > most:
            raise self._given_up(error, trouble.failures) from None
        trouble.waited += seconds
        self._usage.retries += 1
        self._limiter.pushed_back(since=sent)  # a server in trouble is not helped by more of the same
        await self._limiter.sleep(seconds)

    def _is_down(self, error: Exception) -> bool:
        """Whether the server is there no more, or not yet: 503, and once it was reached, connections that fail."""
        if isinstance(error, openai.APIStatusError):
            return error.status_code == 503
        if isinstance(error, NotYet):
            return self._reached
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            state, line = explain_silence(self._where, self._settings.base_url, _root_of(error), self._settings.timeout)
            if state == "wrong":
                raise UserError(line) from None
            return self._reached
        return False

    def _given_up(self, error: Exception, failures: int) -> Exception:
        """What to say after so many tries."""
        settings, reason = self._settings, self._reason(error)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return MachineError(
                f"{self._where}: no answer after {failures} tries of feedback.timeout={settings.timeout:g} s. {KEPT} "
                f"Raise that limit; or lower feedback.concurrency={settings.concurrency}, of which each waits for the "
                f"others, or the length of a reply (feedback.{'cot.' * (settings.mode == 'cot')}max_tokens)."
            )
        if isinstance(error, Garbled) and not isinstance(error, HandedOn):
            kind = MachineError if self._answered else UserError
            return kind(
                f"{self._where}: no usable answer after {failures} tries ({reason}). {KEPT} "
                "Check feedback.base_url, and the server."
            )
        return MachineError(
            f"{self._where}: no answer after {failures} tries ({reason}). {KEPT} "
            "Check that the server runs at feedback.base_url, then run the same command again."
        )

    def _verdict_on(self, error: openai.APIStatusError) -> Exception:
        """What a 3xx or 4xx means: the end, the end of this question, or a lack of log-probabilities."""
        reason, status = self._reason(error), error.status_code
        if status < 400:
            to = (error.response.headers.get("location") or "another address").removesuffix("/chat/completions")
            return UserError(f"{self._where}: the server redirects to {to}. Give that address as feedback.base_url.")
        if error.code in FATAL_CODES or status == 402:
            return self._broke(error)
        if status in (401, 403) or error.code == "invalid_api_key" or "api key" in reason.lower():
            variable = self._settings.api_key_env
            check = f"the environment variable {variable}" if variable else "feedback.api_key_env: a key is wanted"
            return UserError(f"{self._where}: the key was refused ({reason}). Check {check}.")
        if status == 407:
            return UserError(f"{self._where}: the proxy wants a name and password ({reason}). Check HTTPS_PROXY.")
        if status == 404 or error.code == "model_not_found":
            check = "Check feedback.model and feedback.base_url (most servers want /v1 at its end)."
            return UserError(f"{self._where}: no such model or address ({reason}). {check}")
        if "logprobs" in reason.lower():
            return NoLogprobs(reason)
        of_this_row = status in (400, 422) and (self._answered or _NO_ROOM.search(reason) is not None)
        if status == 413 or error.code in ROW_CODES or of_this_row:
            return Rejected(reason)
        names = "feedback.extra_body, feedback.max_tokens_key and feedback.logprobs decide what is sent."
        return UserError(f"{self._where}: the request was refused with status {status} ({reason}). {names}")

    def _broke(self, error: openai.APIStatusError) -> UserError:
        advice = f"{KEPT} Top up, then run again."
        return UserError(f"{self._where}: the account has no credit left ({self._reason(error)}). {advice}")

    @property
    def _where(self) -> str:
        return f"feedback from {self._settings.model} at {self._settings.base_url}"

    def _reason(self, error: Exception) -> str:
        """The server's own words, on one line, without the key."""
        body = getattr(error, "body", None)
        words = body.get("message") if isinstance(body, dict) else None
        if not words and isinstance(body, str) and "<" in body[:200]:
            words = "a page of HTML"
        if not words:
            cause = error.__cause__
            words = f"{error}{f' {type(cause).__name__}: {cause}' if cause else ''}"
        return redact(" ".join(str(words).split()))[:300]

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) > 6 else text


class _Bounded(httpx2.AsyncByteStream):
    """The bytes of a reply, which has an end."""

    def __init__(self, stream: httpx2.AsyncByteStream):
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self._stream:
            if (read := read + len(part)) > LONGEST_REPLY:
                raise Garbled(_TOO_LONG)
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Raises `Garbled` where a reply says that it is too long, and has it raised where it is."""
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > LONGEST_REPLY:
        raise Garbled(_TOO_LONG)
    assert isinstance(response.stream, httpx2.AsyncByteStream)  # of an asynchronous client
    response.stream = _Bounded(response.stream)


@dataclass(slots=True)
class Trouble:
    """What one request has been through."""

    failures: int = 0
    waits: int = 0  # 429s
    downs: int = 0  # times that the server was away
    waited: float = 0.0  # seconds, for 429s to pass and for the server to come back


def _root_of(error: BaseException) -> BaseException:
    """The error of the system under those of the libraries."""
    seen = error
    while (under := seen.__cause__ or seen.__context__) is not None:
        seen = under
    return seen


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks us to wait, from `retry-after-ms` or `retry-after` (seconds or a date), or None."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None
