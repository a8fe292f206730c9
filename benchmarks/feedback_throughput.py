"""How much of what a server allows the engine uses.

    python benchmarks/feedback_throughput.py [--pairs 3000] [--limit 600] [--minutes 2]

1. No limit, 50 ms latency: the engine (prompts in both orders, ledger, verdicts) against a bare asyncio loop that
sends the
   same messages through the same client (openai's AsyncOpenAI, chat.completions.create) with as many in flight, one
   after the other and several times in turn. Its own process for the server.
2. N requests a minute: what share of N the engine keeps, and how many 429s it draws. (--limit 0 leaves this out.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from morlaif.data.records import Pair
from morlaif.feedback.chunks import PairChunks
from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label_chunks
from morlaif.feedback.modes import mode_of
from morlaif.feedback.records import Comparison
from morlaif.feedback.settings import OpenAISettings, Principle
from morlaif.presets import preset

HERE = Path(__file__).parent
PRINCIPLE = Principle(
    name="helpfulness", question="Which option helps more?", description="Prefer help.", covers=("helpfulness",)
)


@contextmanager
def server(latency: float, limit: int = 0):
    process = subprocess.Popen(
        [sys.executable, str(HERE / "feedback_server.py"), str(latency), str(limit)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


def counts(url: str, reset: bool = False) -> dict:
    with urllib.request.urlopen(f"{url}/count{'?reset' if reset else ''}") as reply:
        return json.load(reply)


def settings_for(url: str, **overrides) -> OpenAISettings:
    tree = preset("feedback", "openai")
    quick = {"base_url": f"{url}/v1", "api_key_env": None, "logprobs": "always", "provider": "bench"}
    return OpenAISettings(**tree | quick | overrides)


def make_pairs(count: int) -> list[Pair]:
    text = "A sentence of an answer that is about as long as answers are. " * 8
    return [Pair.of([{"role": "user", "content": f"Question {i}?"}], f"{text}{i}", f"{i} {text}") for i in range(count)]


def engine(settings: OpenAISettings, pairs: list[Pair]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        judge = open_judge(settings, ledger=Path(folder) / "ledger.sqlite", seed=0)
        begun = time.monotonic()
        for part in label_chunks(judge, PairChunks.of(pairs), lambda _: (PRINCIPLE,)):
            assert part.valid.all()
        return 2 * len(pairs) / (time.monotonic() - begun)


def bare(settings: OpenAISettings, pairs: list[Pair]) -> float:
    """Requests a second of a loop that does nothing but send and receive."""
    import openai

    mode = mode_of(settings, ())
    asked = (q for pair in pairs for q in mode.questions(Comparison.of(pair, PRINCIPLE), True))

    async def work(client) -> None:
        for question in asked:
            await client.chat.completions.create(model=settings.model, messages=question.messages, **question.decoding)

    async def main() -> None:
        client = openai.AsyncOpenAI(api_key="none", base_url=settings.base_url, max_retries=0)
        async with client, asyncio.TaskGroup() as group:
            for _ in range(settings.concurrency):
                group.create_task(work(client))

    begun = time.monotonic()
    asyncio.run(main())
    return 2 * len(pairs) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=2.0)
    options = parser.parse_args()
    if options.rounds:
        with server(0.05) as url:
            rates: dict[str, list[float]] = {"bare": [], "engine": [], "engine in this process": []}
            for _ in range(options.rounds):
                pairs = make_pairs(options.pairs)
                settings = settings_for(url, concurrency=options.concurrency)
                rates["bare"].append(bare(settings, pairs))
                rates["engine"].append(engine(settings, pairs))
                rates["engine in this process"].append(
                    engine(settings.model_copy(update={"survive_kill": False}), pairs)
                )
            base = statistics.median(rates["bare"])
            for name, values in rates.items():
                middle = statistics.median(values)
                print(f"{name:24} {middle:8.1f} requests/s  {100 * middle / base:6.1f} %  {[round(x) for x in values]}")
    for given in (True, False) if options.limit else ():
        with server(0.05, options.limit) as url:
            settings = settings_for(url, requests_per_minute=options.limit if given else None, concurrency=32)
            engine(settings, make_pairs(round(options.limit * options.minutes / 2)))
            counted = counts(url)
            end = counted["times"][-1] - 1.0  # a full minute, without the last second, when there is little left to ask
            taken, late = (sum(end - 60 <= t < end for t in counted[name]) for name in ("times", "refusals"))
            how = "limit given" if given else "limit learnt from 429s"
            print(
                f"{how}: {counted['received']} requests, {counted['refused']} refused; "
                f"in the last minute {taken} taken ({100 * taken / options.limit:.1f} % of the limit), {late} refused"
            )


if __name__ == "__main__":
    main()
