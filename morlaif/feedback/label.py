"""Label pairs of responses: from pairs and principles to one verdict a pair."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from morlaif.data.records import Pair
from morlaif.feedback.chunks import Chunk, PairChunks, Verdicts, averaged
from morlaif.feedback.information import Watch
from morlaif.feedback.judge import Judge, open_judge
from morlaif.feedback.records import Comparison, Verdict
from morlaif.feedback.settings import FeedbackSettings, Principle

Assign = Callable[[str], Sequence[Principle | None]]  # the principles under which the pair of an id is judged
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
        principle: under which to judge; or a function that gives each pair's id its own (see `draw`), then averaged.
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
    return [verdict for part in label_chunks(judge, PairChunks.of(pairs), assign, on_progress) for verdict in part]


def label_chunks(
    judge: Judge, pairs: PairChunks, assign: Assign, on_progress: Progress | None = None, watch: Watch | None = None
) -> Iterator[Verdicts]:
    """Verdicts on `pairs`, in their order and in chunks: memory does not grow with their number.

    Of a judge that remembers, whatever it does not know is asked first, and then all is read from its memory in the
    order of the pairs; only invalid verdicts, which are not remembered, are held here meanwhile. `watch` sees each new
    verdict.
    """
    progress = _Progress(judge, pairs, assign, on_progress, watch)
    if not judge.remembers:
        for chunk in pairs.chunks():
            yield _ask(judge, chunk, assign, progress)
        return
    known = 0  # chunks at the beginning of which everything is remembered
    for chunk in pairs.chunks():
        parts = [part for part, _ in recall(judge, chunk, assign)]
        if not all(part.valid.all() for part in parts):
            break
        progress.recalled(parts)
        yield averaged(parts)
        known += 1
    else:
        return
    missing: dict[tuple[str, str], Verdict] = {}
    for asked, verdict in judge.judge(_unknown(judge, islice(pairs.chunks(), known, None), assign, progress)):
        if not verdict.valid:
            missing[asked.id, _name(asked.principle)] = verdict
        progress.came(asked, verdict)
    for chunk in islice(pairs.chunks(), known, None):
        yield averaged([_complete(part, principles, missing) for part, principles in recall(judge, chunk, assign)])


def label_all(
    judge: Judge,
    pairs: PairChunks,
    principles: Sequence[Principle],
    lock: Path,
    on_progress: Progress | None = None,
    watch: Watch | None = None,
) -> None:
    """Have the judge remember its verdicts on `pairs` under all `principles`, asked pair by pair.

    A judge that reads a pair's text once for all principles (a local model, a server that keeps prefixes, a joint
    request) needs them side by side; a run's units take one principle each. So whichever unit comes first labels for
    all of them, the others wait at `lock` and then find their verdicts.
    """
    from filelock import FileLock

    with FileLock(lock):
        progress = _Progress(judge, pairs, lambda _: principles, on_progress, watch)
        for asked, verdict in judge.judge(_unknown(judge, pairs.chunks(), lambda _: principles, progress)):
            progress.came(asked, verdict)


def draw(constitution: Sequence[Principle], count: int, seed: int) -> Assign:
    """`count` different principles for each pair, drawn by its identity: the same whatever the other pairs are."""

    def assign(pair_id: str) -> Sequence[Principle]:
        return random.Random(f"{seed}/{pair_id}").sample(constitution, count)

    return assign


def _ask(judge: Judge, chunk: Chunk, assign: Assign, progress: _Progress) -> Verdicts:
    """Verdicts of a judge without a memory."""
    columns = _columns(chunk, assign)
    asked = (Comparison.of(pair, column[row]) for row, pair in enumerate(chunk) for column in columns)
    found = {}
    for comparison, verdict in judge.judge(asked):
        found[comparison.id, _name(comparison.principle)] = verdict
        progress.came(comparison, verdict)
    named = ([(id, _name(p)) for id, p in zip(chunk.ids, column, strict=True)] for column in columns)
    return averaged([Verdicts.of(judge.name, [found[key] for key in keys]) for keys in named])


def _unknown(judge: Judge, chunks: Iterable[Chunk], assign: Assign, progress: _Progress) -> Iterator[Comparison]:
    """What the judge does not remember, pair after pair."""
    for chunk in chunks:
        parts = list(recall(judge, chunk, assign))
        progress.recalled([part for part, _ in parts])
        for row in np.flatnonzero(~np.logical_and.reduce([part.valid for part, _ in parts])).tolist():
            pair = chunk.pair(row)
            for part, principles in parts:
                if not part.valid[row]:
                    yield Comparison.of(pair, principles[row])


class Recalls(Protocol):
    """What knows verdicts of earlier runs: a judge, or its verdict cache."""

    name: str

    def recall(self, principle: Principle | None, pair_ids: Sequence[str]) -> Verdicts: ...


def recall(judge: Recalls, chunk: Chunk, assign: Assign) -> Iterator[tuple[Verdicts, Sequence[Principle | None]]]:
    """What is remembered of the K verdicts on each pair: K times the verdicts on all N, beside their principles."""
    for principles in _columns(chunk, assign):
        rows: dict[str, list[int]] = {}
        if len({id(principle) for principle in principles}) == 1:
            yield judge.recall(principles[0], chunk.ids), principles
            continue
        by_name = {_name(principle): principle for principle in principles}
        for row, principle in enumerate(principles):
            rows.setdefault(_name(principle), []).append(row)
        whole = Verdicts.none(judge.name, chunk.ids)
        for name, chosen in rows.items():
            whole = whole.put(chosen, judge.recall(by_name[name], [chunk.ids[row] for row in chosen]))
        yield whole, principles


def _columns(chunk: Chunk, assign: Assign) -> list[Sequence[Principle | None]]:
    """K lists of the N principles under which pairs are judged, each pair's own in the order of their names."""
    rows = [assign(id) for id in chunk.ids]
    if rows and len(rows[0]) > 1:
        rows = [sorted(row, key=_name) for row in rows]
    return list(zip(*rows, strict=True))


def _complete(
    part: Verdicts, principles: Sequence[Principle | None], missing: dict[tuple[str, str], Verdict]
) -> Verdicts:
    """`part` with the invalid verdicts of this run in the places where nothing is remembered."""
    rows = np.flatnonzero(~part.valid).tolist()
    found = [missing[part.pair_id[row], _name(principles[row])] for row in rows]
    return part.put(rows, Verdicts.of(part.judge, found)) if rows else part


def _name(principle: Principle | None) -> str:
    return principle.name if principle else ""


class _Progress:
    """Tells a listener how many verdicts there are, but not more than ten times a second."""

    def __init__(
        self, judge: Judge, pairs: PairChunks, assign: Assign, listener: Progress | None, watch: Watch | None = None
    ) -> None:
        self._usage, self._listener, self._watch = judge.usage, listener, watch
        each = next((len(assign(id)) for chunk in pairs.chunks() for id in chunk.ids), 0)
        self._done, self._total = 0, len(pairs) * each
        self._begun = self._last = time.monotonic()

    def recalled(self, parts: Sequence[Verdicts]) -> None:
        """Some of these verdicts were known."""
        known = sum(int(part.valid.sum()) for part in parts)
        self._usage.recalled += known
        self.add(known)

    def came(self, asked: Comparison, verdict: Verdict) -> None:
        """A new verdict."""
        if self._watch is not None:
            self._watch.see(asked, verdict)
        self.add(1)

    def add(self, verdicts: int) -> None:
        self._done += verdicts
        now = time.monotonic()
        if self._listener is None or not verdicts or (self._done < self._total and now - self._last < 0.1):
            return
        self._last = now
        usage, seconds = self._usage, max(now - self._begun, 1e-9)
        self._listener(
            self._done, self._total, per_second=self._done / seconds,
            requests=usage.requests, recalled=usage.recalled, usd=usage.usd,
        )  # fmt: skip
