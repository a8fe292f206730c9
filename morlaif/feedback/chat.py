"""One chat request to an OpenAI-compatible server: sent, repeated where that helps, given up where it cannot."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from morlaif.errors import UserError
from morlaif.feedback.limiter import Limiter
from morlaif.feedback.reach import api_key
from morlaif.feedback.records import Usage
from morlaif.feedback.reply import Garbled, Reply, parse
from morlaif.feedback.settings import OpenAISettings
from morlaif.texts import redact

LONGEST_BACKOFF = 60.0  # seconds
TRIES_UNREACHED = 4  # a server that has never answered is not waited for as long as one that has
KEPT = "What was answered is kept."
FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance")
ROW_CODES = (
    "context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation",
    "invalid_prompt",
)  # fmt: skip


class Rejected(Exception):
    """The server will not answer this one question (too long, filtered); others may fare better."""


class NoLogprobs(Exception):
    """The model does not give log-probabilities, and said so."""


TRANSIENT = (openai.APIConnectionError, openai.InternalServerError, openai.ConflictError, TimeoutError, Garbled)


class ChatClient:
    """An asynchronous client with our own retries, which are counted and give way to a pause of the whole client."""

    def __init__(self, settings: OpenAISettings, limiter: Limiter, usage: Usage) -> None:
        self._settings, self._limiter, self._usage = settings, limiter, usage
        self._key = api_key(settings)
        self._reached = False  # whether the server has ever answered with success
        self._per_character = 0.3  # tokens; corrected by what replies say that they used
        limits = httpx2.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=settings.timeout),
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        """Send one request, and see it through.

        Raises:
            UserError: no request can succeed (key, model, address, money), or the trouble outlasts our patience.
            Stopped: the limiter was closed while this request had not been sent.
            Rejected: this request cannot succeed.
            NoLogprobs: log-probabilities were asked for, and this model has none.
        """
        failures = waits = 0
        waited = sent = 0.0
        expected = self._tokens(messages, decoding)
        while True:
            try:
                async with self._limiter.slot(expected):
                    sent = asyncio.get_running_loop().time()
                    reply = await self._send(messages, decoding)
                self._settle(reply, messages, expected, sent)
                return reply
            except openai.RateLimitError as error:
                waits += 1
                waited += self._pushed_back(error, waits, waited, sent)
            except TRANSIENT as error:
                failures += 1
                await self._repeat(error, failures, sent)
            except openai.APIStatusError as error:
                if error.status_code != 408:
                    raise self._verdict_on(error) from None
                failures += 1
                await self._repeat(error, failures, sent)

    def _tokens(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> float:
        """What a request will use at most, by the tokens a character took so far."""
        most_written = decoding[self._settings.max_tokens_key]
        return sum(len(message["content"]) for message in messages) * self._per_character + most_written

    def _settle(self, reply: Reply, messages: list[dict[str, str]], expected: float, sent: float) -> None:
        """Count a good reply, and tell the limiter what it really took."""
        self._reached = True
        self._usage.requests += 1
        self._limiter.succeeded(sent)
        if reply.input_tokens:
            self._limiter.tokens.settle(expected - reply.input_tokens - reply.output_tokens)
            measured = reply.input_tokens / sum(len(message["content"]) for message in messages)
            self._per_character += 0.1 * (measured - self._per_character)

    async def _send(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        # a plain post: the typed wrapper would drop fields that some servers want and others give
        body = {"model": self._settings.model, "messages": messages, **decoding}
        async with asyncio.timeout(self._settings.timeout):  # the whole reply, however slowly it drips
            response = await self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        self._limiter.learn(response.headers)
        return parse(self._hide(response.text))

    def _pushed_back(self, error: openai.RateLimitError, waits: int, waited: float, sent: float) -> float:
        """Pause all requests after a 429, the `waits`-th for this one; returns for how many seconds."""
        if error.code in FATAL_CODES or error.type in FATAL_CODES:
            raise self._broke(error) from None
        asked = retry_after(error.response.headers)
        seconds = self._backoff(waits) if asked is None else asked * random.uniform(1.0, 1.05)
        if waited + seconds > self._settings.patience:
            raise UserError(
                f"{self._where}: rate limited for longer than feedback.patience={self._settings.patience:g} s "
                f"({self._said(error)}). {KEPT} Run again later, or lower feedback.concurrency."
            ) from None
        self._usage.waits += 1
        self._limiter.learn(error.response.headers)
        self._limiter.pushed_back(seconds, since=sent, refused=True)
        return seconds

    def _backoff(self, times: int) -> float:
        return min(self._settings.backoff * 2.0 ** min(times - 1, 20), LONGEST_BACKOFF) * random.uniform(0.5, 1.0)

    async def _repeat(self, error: Exception, failures: int, sent: float) -> None:
        """Wait before a repetition, or give up."""
        most = self._settings.retries if self._reached else min(self._settings.retries, TRIES_UNREACHED)
        if failures > most:
            raise UserError(
                f"{self._where}: no answer after {failures} tries ({self._said(error)}). {KEPT} "
                "Check that the server runs at feedback.base_url, then run the same command again."
            ) from None
        self._usage.retries += 1
        self._limiter.pushed_back(since=sent)  # a server in trouble is not helped by more of the same
        seconds = self._backoff(failures)
        if isinstance(error, openai.APIStatusError) and (asked := retry_after(error.response.headers)) is not None:
            seconds = max(seconds, min(asked, self._settings.patience))
        await self._limiter.sleep(seconds)

    def _verdict_on(self, error: openai.APIStatusError) -> Exception:
        """What a 4xx means: the end, the end of this question, or a lack of log-probabilities."""
        said, status = self._said(error), error.status_code
        if error.code in FATAL_CODES or status == 402:
            return self._broke(error)
        if status in (401, 403) or error.code == "invalid_api_key" or "api key" in said.lower():
            variable = self._settings.api_key_env
            check = f"the environment variable {variable}" if variable else "feedback.api_key_env: a key is wanted"
            return UserError(f"{self._where}: the key was refused ({said}). Check {check}.")
        if status == 404 or error.code == "model_not_found":
            check = "Check feedback.model and feedback.base_url."
            return UserError(f"{self._where}: no such model or address ({said}). {check}")
        if "logprobs" in said.lower():
            return NoLogprobs(said)
        if status == 413 or error.code in ROW_CODES or (self._reached and status in (400, 422)):
            return Rejected(said)
        return UserError(f"{self._where}: the request was refused with status {status} ({said})")

    def _broke(self, error: openai.APIStatusError) -> UserError:
        advice = f"{KEPT} Top up, then run again."
        return UserError(f"{self._where}: the account has no credit left ({self._said(error)}). {advice}")

    @property
    def _where(self) -> str:
        return f"feedback from {self._settings.model} at {self._settings.base_url}"

    def _said(self, error: Exception) -> str:
        """The server's own words, on one line, without the key."""
        body = getattr(error, "body", None)
        words = body.get("message") if isinstance(body, dict) else None
        if not words:
            cause = error.__cause__
            words = f"{error}{f' {type(cause).__name__}: {cause}' if cause else ''}"
        return redact(" ".join(str(words).split()))[:300]

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) > 6 else text


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
