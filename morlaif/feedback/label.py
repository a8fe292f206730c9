"""Label pairs of responses: from pairs and principles to one verdict a pair."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from morlaif.data.records import Pair
from morlaif.feedback.judge import Judge, open_judge
from morlaif.feedback.records import Comparison, Verdict
from morlaif.feedback.settings import FeedbackSettings, Principle

Assign = Callable[[Pair], Sequence[Principle | None]]  # the principles under which a pair is judged
Progress = Callable[..., Any]  # (done, total, **metrics)


def label(
    pairs: Sequence[Pair],
    principle: Principle | Assign | None,
    settings: FeedbackSettings,
    *,
    ledger: Path,
    seed: int,
    on_progress: Progress | None = None,
) -> list[Verdict]:
    """One verdict for each of `pairs`, in their order.

    Args:
        principle: under which to judge; or a function that gives each pair its own (see `draw`), then averaged.
        ledger: where paid answers are kept and looked up.
        seed: of the errors of the rules judge.
        on_progress: called with verdicts done, verdicts in all, and the judge's counters by name.

    Raises:
        UserError: the source cannot be used. What was answered before is in the ledger: call again to continue.
    """
    assign = principle if callable(principle) else lambda _: (principle,)
    return label_with(open_judge(settings, ledger=ledger, seed=seed), pairs, assign, on_progress)


def label_with(
    judge: Judge, pairs: Sequence[Pair], assign: Assign, on_progress: Progress | None = None
) -> list[Verdict]:
    """`label` with a judge that is already open, so that its counters can be read afterwards."""
    total = sum(len(assign(pair)) for pair in pairs)
    comparisons = (Comparison.of(pair, principle) for pair in pairs for principle in assign(pair))
    parts: dict[str, list[tuple[str, Verdict]]] = {}
    report = _reporter(judge, total, on_progress)
    for done, (asked, verdict) in enumerate(judge.judge(comparisons), start=1):
        parts.setdefault(asked.id, []).append((asked.principle.name if asked.principle else "", verdict))
        report(done)
    return [average([verdict for _, verdict in sorted(parts[pair.id], key=lambda part: part[0])]) for pair in pairs]


def draw(constitution: Sequence[Principle], count: int, seed: int) -> Assign:
    """`count` different principles for each pair, drawn by its identity: the same whatever pairs stand beside it."""

    def assign(pair: Pair) -> Sequence[Principle]:
        return random.Random(f"{seed}/{pair.id}").sample(constitution, count)

    return assign


def average(verdicts: Sequence[Verdict]) -> Verdict:
    """Verdicts on one pair under several principles, as one: the mean of the valid ones, invalid if there are none."""
    valid = [verdict for verdict in verdicts if verdict.valid]
    if len(verdicts) == 1 or not valid:
        return verdicts[0]

    def mean(name: str) -> float | None:
        values = [getattr(verdict, name) for verdict in valid]
        return None if None in values else sum(values) / len(values)

    means = {name: mean(name) for name in ("p_first", "bias", "d_forward", "d_backward")}
    return Verdict(pair_id=valid[0].pair_id, valid=True, judge=valid[0].judge, **means)


def _reporter(judge: Judge, total: int, on_progress: Progress | None) -> Callable[[int], None]:
    """Tells `on_progress` about every verdict, but not more than ten times a second."""
    begun = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if on_progress is None or (done < total and now - last < 0.1):
            return
        last = now
        usage = judge.usage
        speed = done / max(now - begun, 1e-9)
        on_progress(done, total, per_second=speed, requests=usage.requests, cached=usage.cached, usd=usage.usd)

    return report
