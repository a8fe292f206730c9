"""When a request may be sent: as fast as the budgets allow, as wide as the server bears."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

MARGIN = 0.985  # of a limit that we use: a window that begins and ends with a request holds one more
LAG = 0.1  # seconds of delay that later requests may catch up on
WINDOW = 60.0  # seconds over which servers count, as far as we can tell from their 429s
BOLDER = 1.5  # by how much a rate that was learnt from 429s is raised at first, to see whether the server bears more
ENOUGH = 20  # requests that must have been taken before their number tells a rate
SETTLED = 1.03  # below this it is no longer raised
FIRST_WIDTH = 8  # requests in flight before the server has answered any
SLOWER = 3.0  # times the fastest answer: what took longer waited for others


class Stopped(Exception):
    """Nothing more is to be sent."""


class RateLimit:
    """A budget for a minute, spent evenly: each unit has its moment, `60 / limit` seconds after the one before."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit  # units a minute; None: no limit known
        self._next = 0.0  # when the next unit may be spent

    def reserve(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` units; returns the moment from which they may be spent."""
        if not self.limit:
            return now
        moment = max(self._next, now - LAG)
        self._next = moment + amount * 60.0 / (self.limit * MARGIN)
        return moment

    def settle(self, surplus: float) -> None:
        """Give back units that were reserved and not used (negative: that were used beyond)."""
        if self.limit:
            self._next -= surplus * 60.0 / (self.limit * MARGIN)


class RateLearner:
    """Finds out how many requests a server takes that turns some away and never says how many it would take.

    At a 429 the estimate is what was taken within the last WINDOW, or since the first request if that is shorter. For
    a server that counts by the minute it is too high at first, and exact after a minute. After a quiet WINDOW it is
    raised by a factor, since it may be low; what brings another 429 is taken back, and the next raise is smaller,
    until it is not worth a refusal. A handful of requests tells nothing: then the width alone gives way.
    """

    def __init__(self, pace: RateLimit) -> None:
        self._pace = pace
        self._taken: deque[float] = deque()  # when requests were sent that were answered
        self._first: float | None = None
        self._refused = -1.0  # when the server last turned us away
        self._factor, self._quiet = BOLDER, 0.0
        self._before: float | None = None  # the rate before the last raise, until it has proved to be kept

    def taken(self, sent: float) -> None:
        self._first = sent if self._first is None else min(sent, self._first)
        self._taken.append(sent)
        while self._taken[0] < sent - WINDOW:
            self._taken.popleft()
        if self._pace.limit is not None and self._before is None and sent <= self._refused:
            self._pace.limit += 60.0 / self._span(self._refused)  # its answer came after the refusal of another

    def refused(self, sent: float, now: float) -> None:
        """A request of the moment `sent` was turned away: what was sent before it is what the server took."""
        self._quiet = now
        if self._before is not None:
            self._pace.limit, self._before = self._before, None
            self._factor = 1.0 + (self._factor - 1.0) / 3.0
        elif (count := sum(sent - WINDOW < other <= sent for other in self._taken)) >= ENOUGH:
            known, self._refused = self._pace.limit, sent
            self._pace.limit = count * 60.0 / self._span(sent)
            if known is not None:
                self._pace.limit = min(self._pace.limit, known * 0.995)  # it was too much, whatever was counted

    def dare(self, now: float) -> None:
        """Raise the rate, if it is one that was learnt and has been kept without trouble for long enough."""
        limit = self._pace.limit
        if limit is not None and self._refused >= 0 and self._factor >= SETTLED and now - self._quiet > 1.5 * WINDOW:
            self._before, self._quiet = limit, now
            self._pace.limit = limit * self._factor

    def _span(self, now: float) -> float:
        begun = now if self._first is None else self._first
        return min(WINDOW, max(now - begun, 1e-3))


class Limiter:
    """Paces requests and tokens, and bounds how many requests are in flight.

    The width doubles with each round of good answers until the server pushes back, is halved then, and grows by one a
    round from there: additive increase, multiplicative decrease. A server that takes all and answers ever later pushes
    back too, before it is too late: past a quarter of `timeout` the width grows no more, past half of it it is halved.
    A pause holds for all requests, since a server that
    turns one away has no room for the others. A closed limiter lets what is on its way come home, as it is paid for,
    and sends nothing more.
    """

    def __init__(
        self, concurrency: int, requests: float | None = None, tokens: float | None = None, timeout: float = math.inf
    ) -> None:
        self.most = concurrency
        self.width = float(min(FIRST_WIDTH, concurrency))
        self.requests, self.tokens = RateLimit(requests), RateLimit(tokens)
        self._learner = RateLearner(self.requests) if requests is None else None
        self._learn = (requests is None, tokens is None)  # a limit that was given is not replaced by what servers say
        self._doubling = True
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resume = 0.0  # no request before this moment of the loop's clock
        self._narrowed = 0.0  # when the width was last halved
        self._closed = asyncio.Event()
        self._timeout, self._fastest = timeout, math.inf  # seconds of a request: at most, and of the fastest
        self._grouped, self._room = 0, asyncio.Event()  # requests that groups have room for, and news of room

    def bound(self, most: int) -> None:
        """The server works on no more than `most` at once."""
        self.most = min(self.most, most)
        self.width = min(self.width, float(self.most))

    @asynccontextmanager
    async def group(self, requests: int) -> AsyncIterator[None]:
        """Hold room for `requests` at once that follow one another: a server that works on few at once still has what
        the next one shares with the last.

        Raises:
            Stopped: the limiter is closed.
        """
        while self._grouped and self._grouped + requests > int(self.width) and not self._closed.is_set():
            self._room.clear()
            await self._room.wait()
        if self._closed.is_set():
            raise Stopped
        self._grouped += requests
        try:
            yield
        finally:
            self._grouped -= requests
            self._room.set()

    @asynccontextmanager
    async def slot(self, tokens: float = 0.0) -> AsyncIterator[None]:
        """Hold a place for one request of about `tokens` tokens, from before it is sent until its reply is read.

        Raises:
            Stopped: the limiter is closed.
        """
        await self._enter()
        try:
            now = _now()
            if self._learner:
                self._learner.dare(now)
            moment = max(self.requests.reserve(now), self.tokens.reserve(now, tokens))
            while (wait := max(moment, self._resume) - _now()) > 0:
                paused = self._resume > moment
                await self.sleep(wait)
                if paused and _now() >= self._resume:  # all wait for the same moment: a new place in the line for each
                    moment = self.requests.reserve(_now())
            if self._closed.is_set():
                raise Stopped
            yield
        finally:
            self._leave()

    def succeeded(self, sent: float = 0.0) -> None:
        """A good answer came to a request of the moment `sent`: widen, if the width was what held us back."""
        if self._learner:
            self._learner.taken(sent)
        took = _now() - sent if sent else 0.0
        self._fastest = min(self._fastest, took)
        if took > max(self._timeout / 4, SLOWER * self._fastest):
            if took > self._timeout / 2:
                self.pushed_back(since=sent)
        elif self._waiting or self._in_flight + 1 >= self.width:
            self.width = min(self.most, self.width + (1.0 if self._doubling else 1.0 / self.width))
            self._wake()

    def pushed_back(self, pause: float = 0.0, since: float = 0.0, refused: bool = False) -> None:
        """The server has had too much: halve the width, but once for all requests sent `since` then, and pause.

        `refused`: it answered 429, which shows something about its rate.
        """
        if since >= self._narrowed:
            if refused and self._learner:
                self._learner.refused(since, _now())
            self.width, self._narrowed, self._doubling = max(1.0, self.width / 2), _now(), False
        self._resume = max(self._resume, _now() + pause)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take limits from `x-ratelimit-limit-*`, and pause where `x-ratelimit-remaining-*` is down to nothing."""
        for pace, kind, wanted in zip((self.requests, self.tokens), ("requests", "tokens"), self._learn, strict=True):
            limit, left = (_number(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
            if wanted and limit and limit > 0:
                pace.limit = limit
                if kind == "requests":
                    self._learner = None  # the server gives its rate: there is nothing to guess
            if left is not None and left <= 0 and (reset := duration(headers.get(f"x-ratelimit-reset-{kind}"))):
                self._resume = max(self._resume, _now() + min(reset, 60.0))

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until the limiter is closed.

        Raises:
            Stopped: it was closed.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        if self._closed.is_set():
            raise Stopped

    def close(self) -> None:
        self._closed.set()
        self._room.set()

    async def _enter(self) -> None:
        if self._in_flight < int(self.width) and not self._waiting:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the place had been given to us already
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        self._room.set()
        while self._waiting and self._in_flight < int(self.width):
            if not (turn := self._waiting.popleft()).done():
                self._in_flight += 1
                turn.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def duration(text: str | None) -> float | None:
    """Seconds in "1s", "6m0s", "250ms" or "1.5" (how servers write when a limit resets), or None."""
    if not text or not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d)?)+", text):
        return None
    units = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text))
