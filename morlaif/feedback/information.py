"""Whether a judge's labels say anything at all: from the numbers of its verdicts alone.

A judge may answer every question validly and know nothing: prefer whichever option comes first, whatever it says, or
answer at random. The labels then lie at ½, or scatter about it, and what is trained on them is trained on noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from morlaif.errors import UserError
from morlaif.texts import visible

if TYPE_CHECKING:
    from morlaif.feedback.judge import Judge
    from morlaif.feedback.records import Comparison, Verdict
    from morlaif.feedback.settings import StopSettings

log = logging.getLogger("morlaif.feedback")

FIRST = 20  # valid verdicts under one principle after which a judge is looked at, and fewer than which say nothing
PLACE, CLOSE = 0.9, 0.15  # orders that disagree on so many pairs, with labels so close to ½: a place is picked
FLAT = 0.02  # labels closer to ½ than this: a preference model that learns them prefers nothing by more than .08 nats
NOISE = 0.1  # correlation of the two orders below which one says nothing about the other
MASS = 0.1  # probability on the letters below which the judge means to say something else


@dataclass(frozen=True)
class Information:
    """What N valid verdicts hold. None: it cannot be known (fewer than two orders, no probabilities, no spread)."""

    n: int
    spread: float | None  # root mean square distance of the labels from ½, at most ½
    orders_disagree: float | None  # share of pairs on which both orders prefer the same place
    consistency: float | None  # correlation of the log-odds for the first response, between the two orders
    letter_mass: float | None  # mean probability on the letters A and B

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the labels, worst first; each fits behind the judge's name."""
        if self.n < FIRST:
            return []
        found = []
        disagree, spread = self.orders_disagree, self.spread or 0.0
        if disagree is not None and disagree >= PLACE and spread < CLOSE:
            found.append(
                f"prefers the same place, not the same response, in both orders on {disagree:.0%} of {self.n} pairs "
                f"(labels lie {spread:.2g} from ½ on average)"
            )
        elif spread < FLAT:
            found.append(f"sees no difference: its labels on {self.n} pairs lie {spread:.2g} from ½ on average")
        elif self.consistency is not None and self.consistency < NOISE:
            found.append(
                f"contradicts itself: what it says of {self.n} pairs in one order has a correlation of "
                f"{self.consistency:.2f} with what it says in the other"
            )
        if self.letter_mass is not None and self.letter_mass < MASS:
            found.append(f"puts {self.letter_mass:.2g} of its probability on A and B: it means to say something else")
        return found

    def stops(self, limits: StopSettings) -> list[str]:
        """The limits of `feedback.stop_if` that these labels break, each with its figure."""
        found = []
        for name in type(limits).model_fields:
            limit, value = getattr(limits, name), getattr(self, name)
            if self.n >= FIRST and limit is not None and value is not None:
                above = name == "orders_disagree"
                if value > limit if above else value < limit:
                    found.append(f"{name} {value:.3g} is {'above' if above else 'below'} {limit:g}")
        return found

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "warnings": self.warnings}


def information(p: ArrayLike, forward: ArrayLike, backward: ArrayLike, letter_mass: float | None = None) -> Information:
    """From arrays (N,) of valid verdicts: label, and log-odds of A in both orders; NaN where there are none."""
    p, forward, backward = (np.asarray(x, dtype=float) for x in (p, forward, backward))
    asked = np.isfinite(forward) & np.isfinite(backward)
    a, b = forward[asked], -backward[asked]
    two = a.size > 0 and not np.array_equal(a, b)  # where one is the other's mirror, no order was shown
    spread = float(np.sqrt(np.mean((p - 0.5) ** 2))) if p.size else None
    disagree = float(np.mean(a * b < 0)) if two else None
    return Information(int(p.size), spread, disagree, _correlation(a, b) if two else None, letter_mass)


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if min(a.std(), b.std()) < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def all_alike(labels: Mapping[str, ArrayLike]) -> str | None:
    """The warning where labels of several principles, (N,) each over the same pairs, do not differ.

    Asked in one request, a judge may decide once and write its decision down under every name.
    """
    p = np.stack([np.asarray(column, dtype=float) for column in labels.values()])
    p = p[:, np.isfinite(p).all(0)]
    if len(p) < 2 or p.shape[1] < FIRST:
        return None
    same = float(np.mean(np.all(np.sign(p - 0.5) == np.sign(p[0] - 0.5), axis=0)))
    if same < PLACE:
        return None
    return f"gives all {len(p)} principles the same side on {same:.0%} of {p.shape[1]} pairs: it judges once for all"


class Watch:
    """Looks at a judge's first verdicts while it goes on, and at all of them in the end: says so loudly, or stops."""

    def __init__(self, judge: Judge, limits: StopSettings | None, unit: str) -> None:
        self._judge, self._limits, self._unit = judge, limits, unit
        self._first: dict[str, list[tuple[float, float, float]]] = {}
        self._warned: set[str] = set()  # each kind of warning, by its verb, is given once

    def see(self, asked: Comparison, verdict: Verdict) -> None:
        """Take in a new verdict.

        Raises:
            UserError: the first labels break `feedback.stop_if`.
        """
        name = asked.principle.name if asked.principle else ""
        seen = self._first.setdefault(name, [])
        if not verdict.valid or len(seen) >= FIRST:
            return
        p, forward, backward = (
            np.nan if x is None else x for x in (verdict.p_first, verdict.d_forward, verdict.d_backward)
        )
        seen.append((p, forward, backward))
        if len(seen) == FIRST:
            columns = np.array(seen).T
            found = information(columns[0], columns[1], columns[2], self._judge.usage.mean_letter_mass)
            self.judged(found, name)

    def judged(self, found: Information, name: str = "") -> None:
        """Say what is wrong with these labels, once, and stop where `feedback.stop_if` has it so."""
        where = f"{self._unit}{f' ({name})' if name and name not in self._unit else ''}: {self._judge.name}"
        if self._limits is not None and (broken := found.stops(self._limits)):
            why = f" It {found.warnings[0]}." if found.warnings else ""
            raise UserError(
                f"{visible(where)}: its labels carry too little information: {', '.join(broken)} (feedback.stop_if), "
                f"on {found.n} pairs.{why} What was answered is kept. Take another judge, or change the limit."
            )
        self.tell(found.warnings, where)

    def tell(self, warnings: Iterable[str], where: str | None = None) -> None:
        """Say each kind of warning once."""
        where = where or f"{self._unit}: {self._judge.name}"
        for warning in warnings:
            if (kind := warning.split()[0]) not in self._warned:
                self._warned.add(kind)
                line = f"WARNING: {where} {warning}. What is trained on such labels learns noise: take another judge, "
                line = visible(f"{line}or set feedback.stop_if to stop here.")
                self._judge.usage.warnings.append(line)
                log.warning(line)


def warnings_of(qualities: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with the labels of each principle, from their `quality.json`; only those with something."""
    found = {name: quality.get("information") or {} for name, quality in qualities.items()}
    return {name: list(known["warnings"]) for name, known in found.items() if known.get("warnings")}
