from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest
from feedback_cases import make_pairs
from hypothesis import given
from hypothesis import strategies as st

from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label_with
from morlaif.feedback.limiter import LAG, Limiter, RateLearner, RateLimit, Stopped, duration


class Clock(selectors.SelectSelector):
    """Where there is nothing to do, it is the next moment at once."""

    now = 1000.0

    def select(self, timeout=None):
        if not (ready := super().select(0)) and timeout:
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(10, 6000))
def test_no_minute_holds_more_than_the_limit(waits, limit):
    pace, now, moments = RateLimit(limit), 1000.0, []
    for wait in waits:
        now += wait
        moments.append(max(now, pace.reserve(now)))
        now = moments[-1]
    for i, moment in enumerate(moments):
        inside = sum(moment <= other < moment + 60 for other in moments[i:])
        assert inside <= limit * (1 + LAG / 60) + 1


def test_a_busy_minute_is_well_used():
    pace = RateLimit(600)
    moments = [pace.reserve(1000.0) for _ in range(600)]
    assert 60 / (moments[-1] - moments[0] + 0.1) * 600 >= 0.97 * 600
    assert {round(b - a, 6) for a, b in itertools.pairwise(moments)} == {round(60 / (600 * 0.985), 6)}


def test_tokens_are_settled_by_what_was_used():
    pace = RateLimit(60_000)
    pace.reserve(1000.0, 2000)
    pace.settle(1500)
    assert pace.reserve(1000.0) == pytest.approx(1000.0 - LAG + 500 / (60_000 * 0.985 / 60))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("250ms", 0.25),
        ("1.5", 1.5),
        ("1h2m3.5s", 3723.5),
        ("", None),
        (None, None),
        ("x", None),
    ],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


async def work(limiter: Limiter, seconds: float, good: bool = True) -> None:
    async with limiter.slot():
        await asyncio.sleep(seconds)
    limiter.succeeded() if good else limiter.pushed_back(since=asyncio.get_running_loop().time())


def test_the_width_doubles_each_round_and_halves_on_push_back():
    async def main():
        limiter = Limiter(100)
        assert limiter.width == 8
        await asyncio.gather(*(work(limiter, 0.01) for _ in range(16)))  # a full round, and one that begins to wait
        assert 11 <= limiter.width <= 24
        await asyncio.gather(*(work(limiter, 0.01) for _ in range(300)))
        assert limiter.width == 100
        await work(limiter, 0, good=False)
        assert limiter.width == 50
        limiter.pushed_back(since=0.0)  # sent before the width was halved: the same trouble
        assert limiter.width == 50
        await asyncio.gather(*(work(limiter, 0.005) for _ in range(150)))
        assert 51 < limiter.width < 53.5  # one a round from here

    run(main())


def test_the_width_stays_where_it_is_not_used():
    async def main():
        limiter = Limiter(100)
        for _ in range(20):
            await work(limiter, 0)
        assert limiter.width == 8

    run(main())


def test_answers_that_come_ever_later_narrow_the_width_before_they_time_out():
    """A server with few places that takes all requests answers to nobody in time."""

    async def main():
        limiter, now = Limiter(100, timeout=100.0), asyncio.get_running_loop().time
        limiter._in_flight = 100  # the width is what holds us back
        for seconds, width in ((4, 9), (24, 10), (26, 10), (49, 10), (51, 5)):
            limiter.succeeded(now() - seconds)
            assert limiter.width == width, seconds
        slow = Limiter(100, timeout=100.0)  # alone, it takes as long: that is no queue
        slow._in_flight = 100
        for _ in range(3):
            slow.succeeded(now() - 60)
        assert slow.width == 11

    run(main())


def test_groups_have_as_much_room_as_requests():
    async def main():
        limiter, open_at_once, most = Limiter(100), 0, []

        async def grouped():
            nonlocal open_at_once
            async with limiter.group(2):
                open_at_once += 1
                most.append(open_at_once)
                for _ in range(3):
                    await asyncio.sleep(0.001)
                open_at_once -= 1

        limiter.bound(5)
        await asyncio.gather(*(grouped() for _ in range(20)))
        assert len(most) == 20 and max(most) == 2
        limiter.bound(1)
        await asyncio.gather(*(grouped() for _ in range(3)))  # one at least
        async with limiter.group(2):
            waiting = asyncio.ensure_future(grouped())
            await asyncio.sleep(0.001)
            limiter.close()
            with pytest.raises(Stopped):
                await waiting

    run(main())


def test_never_more_in_flight_than_the_width():
    async def main():
        limiter, now, most = Limiter(3), 0, 0

        async def one():
            nonlocal now, most
            async with limiter.slot():
                now += 1
                most = max(most, now)
                try:
                    await asyncio.sleep(0.001)
                finally:
                    now -= 1

        tasks = [asyncio.ensure_future(one()) for _ in range(30)]
        await asyncio.sleep(0.002)
        for task in tasks[5:10]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 3 and now == 0
        assert await asyncio.wait_for(one(), 1) is None  # no place was lost with the cancelled

    run(main())


def test_a_closed_limiter_wakes_whoever_waits():
    async def main():
        limiter = Limiter(1)
        limiter.pushed_back(pause=60)
        waiting = asyncio.ensure_future(work(limiter, 0))
        await asyncio.sleep(0.01)
        limiter.close()
        with pytest.raises(Stopped):
            await asyncio.wait_for(waiting, 1)

    run(main())


def test_limits_are_learnt_from_headers_unless_given():
    async def main():
        headers = {
            "x-ratelimit-limit-requests": "600",
            "x-ratelimit-limit-tokens": "9000",
            "x-ratelimit-remaining-requests": "5",
        }
        learning, told = Limiter(8), Limiter(8, 100, None)
        learning.learn(headers)
        told.learn(headers)
        assert (learning.requests.limit, learning.tokens.limit) == (600, 9000)
        assert (told.requests.limit, told.tokens.limit) == (100, 9000)
        learning.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "80ms"})
        begun = asyncio.get_running_loop().time()
        await work(learning, 0)
        assert asyncio.get_running_loop().time() - begun >= 0.079

    run(main())


def test_requests_keep_within_a_budget():
    """A server that allows 40 a second, in any second and a half, has nothing to complain about."""
    rate, sent = 40, []

    async def ask(limiter: Limiter) -> None:
        async with limiter.slot():
            sent.append(moment := asyncio.get_running_loop().time())
            await asyncio.sleep(0.03 if len(sent) % 7 else 0.4)
        limiter.succeeded(moment)

    async def main() -> None:
        limiter = Limiter(32, 60 * rate)
        await asyncio.gather(*(ask(limiter) for _ in range(600)))

    run(main())
    for i, moment in enumerate(sent):
        assert sum(moment <= other < moment + 1.5 for other in sent[i:]) <= rate * (1.5 + LAG) + 1
    assert 0.9 * rate <= (len(sent) - 1) / (sent[-1] - sent[0]) <= rate


def test_the_engine_asks_the_limiter_for_each_request(server, helpfulness, settings_for, tmp_path, monkeypatch):
    made: list[tuple[Limiter, list[float]]] = []

    class Counted(Limiter):
        def __init__(self, *args, **more) -> None:
            super().__init__(*args, **more)
            made.append((self, []))

        def slot(self, tokens: float = 0.0):
            made[-1][1].append(tokens)
            return super().slot(tokens)

    monkeypatch.setattr("morlaif.feedback.sources.openai.Limiter", Counted)
    settings = settings_for(server, requests_per_minute=100_000, tokens_per_minute=1e9, concurrency=32)
    judge = open_judge(settings, ledger=tmp_path / "l", seed=0)
    label_with(judge, make_pairs(10), lambda _: (helpfulness,))
    ((limiter, slots),) = made
    assert (limiter.most, limiter.requests.limit, limiter.tokens.limit) == (32, 100_000, 1e9)
    assert len(slots) == server.received == 20 and min(slots) > 0


def test_a_rate_is_learnt_from_refusals_alone(monkeypatch):
    """A server that takes 40 requests in any second, and says nothing but 429 with Retry-After to the 41st."""
    monkeypatch.setattr("morlaif.feedback.limiter.WINDOW", 1.0)
    taken: list[float] = []
    refusals: list[float] = []

    async def ask(limiter: Limiter) -> None:
        while True:
            async with limiter.slot():
                sent = asyncio.get_running_loop().time()
                recent = [moment for moment in taken if sent - moment < 1.0]
                (taken if len(recent) < 40 else refusals).append(sent)
                await asyncio.sleep(0.005)
                if len(recent) < 40:
                    return limiter.succeeded(sent)
                limiter.pushed_back(recent[0] + 1.0 - sent, since=sent, refused=True)

    async def main() -> None:
        limiter = Limiter(16)
        await asyncio.gather(*(ask(limiter) for _ in range(240)))

    run(main())
    assert len(taken) == 240 and taken[-1] - taken[0] < 8.0
    assert 0 < len(refusals) < 40  # a burst of the whole width each time that it dares, and fewer each time


def test_the_estimate_of_a_server_that_counts_by_the_minute_becomes_exact():
    pace = RateLimit(None)
    learner = RateLearner(pace)
    for i in range(10):
        learner.taken(100.0 + i / 10)
    learner.refused(101.0, 101.0)
    assert pace.limit is None  # too few to tell
    for i in range(40):
        learner.taken(101.0 + i / 10)
    learner.refused(105.0, 105.0)
    assert pace.limit == pytest.approx(50 * 60 / 5)  # as if it went on like this
    learner.taken(104.95)  # was on its way when another was refused
    assert pace.limit == pytest.approx(51 * 60 / 5)
    for i in range(50):
        learner.taken(161.0 + i / 10)
    learner.refused(166.0, 166.0)
    assert pace.limit == 50  # taken in the last minute
    learner.dare(220.0)
    assert pace.limit == 50
    learner.dare(260.0)
    assert pace.limit == pytest.approx(75)
    learner.refused(280.0, 280.0)
    assert pace.limit == 50
    dares = 0
    for moment in range(380, 5000, 100):
        learner.dare(float(moment))
        dares += pace.limit != 50
        if pace.limit != 50:
            learner.refused(moment + 5.0, moment + 5.0)
    assert pace.limit == 50 and dares <= 3  # then it stays
