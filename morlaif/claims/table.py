"""The table of claims: each with its estimate over seeds, its verdict adjusted over the table, and its power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from morlaif.claims import decide
from morlaif.claims.decide import Evidence, Verdict
from morlaif.claims.estimators import Parts
from morlaif.claims.spec import Known, Test
from morlaif.statistics import Array
from morlaif.variance import holm

Values = Mapping[int, Parts]  # by seed: the parts of an estimate


@dataclass(frozen=True)
class Part:
    """One number of a claim; most have one, without a name."""

    name: str
    values: list[float]  # by seed
    mean: float | None
    low: float | None
    high: float | None
    p_for: float
    p_against: float


@dataclass(frozen=True)
class Row:
    """One claim. What is not known is None."""

    name: str
    statement: str
    source: str
    paper: str
    note: str | None
    claimed: str  # the test in words
    kind: str
    at: float
    margin: float
    arms: dict[str, list[str]]  # overrides of each, without those of the whole sweep
    untested: str | None = None  # why there is no number
    missing: list[int] = field(default_factory=list)  # seeds at which an arm has not finished
    seeds: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    weakest: int = 0  # of the parts: the one on which the claim hangs
    p: float | None = None
    adjusted: float | None = None
    verdict: Verdict | None = None
    power: float | None = None  # of so many seeds, to decide what was found
    seeds_needed: int | None = None  # that would decide with power .8; None: more than are thought of, or not known
    kl: dict[str, float] = field(default_factory=dict)  # of each arm that trained a policy, nats, mean over seeds
    people: list[str] = field(default_factory=list)  # what raters said of the same arms

    @property
    def shown(self) -> Part | None:
        return self.parts[self.weakest] if self.parts else None


def in_words(test: Test) -> str:
    if test.kind == "equivalent":
        return f"within {test.margin:g} of {test.to:g}"
    return f"{test.kind} than {test.than:g}"


def blank(known: Known, **more: Any) -> Row:
    claim, threshold = known.claim, known.claim.test.threshold
    return Row(
        known.name, claim.statement, claim.source, claim.paper, claim.note, in_words(claim.test), threshold.kind,
        threshold.at, threshold.margin, {name: list(words) for name, words in claim.every_arm.items()}, **more,
    )  # fmt: skip


def rows(
    claims: Sequence[Known], values: Mapping[str, Values], more: Mapping[str, Mapping[str, Any]], alpha: float
) -> list[Row]:
    """A row for each claim.

    Args:
        values: of the claims that were tested, by name.
        more: further fields of rows: `untested`, `missing`, `kl`, `people`.
        alpha: chance of a wrong verdict anywhere in the table.
    """
    confidence = 1 - alpha
    found: dict[str, list[Evidence]] = {}
    p_of: dict[str, float] = {}
    for known in claims:
        if not (own := values.get(known.name)):
            continue
        threshold = known.claim.test.threshold
        found[known.name] = [decide.evidence(list(one), threshold, confidence) for one in _columns(own).values()]
        p_of[known.name] = decide.p_value(*decide.all_of(found[known.name]), threshold.kind)
    adjusted = dict(zip(p_of, holm(list(p_of.values())), strict=True))
    return [
        _row(known, values[known.name], found[known.name], adjusted, alpha, more.get(known.name, {}))
        if known.name in found
        else blank(known, **more.get(known.name, {}))
        for known in claims
    ]


def _row(
    known: Known, values: Values, found: Sequence[Evidence], adjusted: Mapping[str, float], alpha: float,
    more: Mapping[str, Any],
) -> Row:  # fmt: skip
    threshold = known.claim.test.threshold
    p_for, p_against = decide.all_of(found)
    parts = [_part(name, one) for name, one in zip(_columns(values), found, strict=True)]
    against = p_against < p_for
    weakest = min(range(len(found)), key=lambda k: found[k].p_against if against else -found[k].p_for)
    level = alpha / len(adjusted) / (1 if threshold.kind == "equivalent" else 2)  # Holm's strictest, one-sided
    return blank(
        known, seeds=list(values), parts=parts, weakest=weakest,
        p=decide.p_value(p_for, p_against, threshold.kind), adjusted=adjusted[known.name],
        verdict=decide.verdict(p_for, p_against, adjusted[known.name], alpha),
        power=_known(decide.power(found[weakest], threshold, len(values), level)),
        seeds_needed=decide.seeds_needed(found[weakest], threshold, level), **more,
    )  # fmt: skip


def _part(name: str, found: Evidence) -> Part:
    mean, low, high = (_known(bound) for bound in (found.interval.value, found.interval.low, found.interval.high))
    return Part(name, found.values, mean, low, high, found.p_for, found.p_against)


def _columns(values: Values) -> dict[str, list[float | Array]]:
    """By part, the value of each seed; a seed at which a part is not known is left out of all."""
    usable = [own for own in values.values() if not any(np.isnan(value).all() for value in own.values())]
    return {name: [own[name] for own in usable] for name in next(iter(values.values()))}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_json(table: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in table]


HEADS = (
    "claim", "verdict", "estimate", "low", "high", "claimed", "seeds", "p, adjusted", "power", "seeds needed", "paper",
)  # fmt: skip


def cells(row: Row) -> list[Any]:
    """For a tracker's table, in the order of HEADS."""
    part = row.shown
    return [
        row.name, row.verdict or "not tested", *((part.mean, part.low, part.high) if part else (None,) * 3),
        row.claimed, len(row.seeds), row.adjusted, row.power, row.seeds_needed, row.paper,
    ]  # fmt: skip


def interval(part: Part | None, digits: int = 3) -> str:
    if part is None or part.mean is None:
        return ""
    bounds = "" if part.low is None or part.high is None else f" [{part.low:.{digits}f}, {part.high:.{digits}f}]"
    return f"{part.mean:.{digits}f}{bounds}"


def needed(row: Row) -> str:
    """The seeds that would decide, in words."""
    if row.verdict is None or row.shown is None or row.shown.low is None:
        return ""
    return f"over {decide.MOST}" if row.seeds_needed is None else str(row.seeds_needed)


def summary(table: Sequence[Row]) -> str:
    tested = [row for row in table if row.verdict]
    parts = [
        f"{sum(row.verdict == kind for row in tested)} {kind}" for kind in ("supported", "contradicted", "undecided")
    ]
    left = len(table) - len(tested)
    return f"{len(tested)} claims: {', '.join(parts)}" + (f"; {left} not tested here" if left else "")
