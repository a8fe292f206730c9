"""Runs that differ by seed alone, taken together: what comparisons, claims, trackers and the terminal read.

A *cell* is an arm under one setting; its seeds are a sample. Everything here is typed data and can be written as JSON;
`comparison.json` has it under "aggregate".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from morlaif.evaluation.results import Estimate
from morlaif.variance import Mean, Method

# In words, of the first against the second. "one seed" and "unknown" are no verdicts.
Verdict = Literal["better", "worse", "undecided", "one seed", "unknown"]
_OTHER_SIDE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True, slots=True)
class Cell:
    """An arm under one setting, with its policies by seed."""

    key: str
    label: str
    arm: str
    setting: dict[str, str]  # the keys in which the runs differ, without seeds: as the runs' table shows their values
    policies: dict[str, str]  # seed -> key of the policy; one that does not depend on a seed is there for each

    @property
    def seeds(self) -> int:
        """Of how many different trainings it consists."""
        return len(set(self.policies.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedEstimate(Estimate):
    """A mean over seeds (and prompts) with the interval that verdicts use; `n` counts prompts, or seeds without any."""

    cell: str  # its key
    label: str  # of the cell
    arm: str
    setting: dict[str, str]
    measure: str  # one of MEASURES
    seeds: int  # different ones
    method: Method  # what the interval covers
    by_seed: dict[str, float]
    shares: dict[str, float] | None = None  # of a verdict's variance, by seed, prompt and rest
    t: Estimate | None = None  # Student's t over the seeds' means: knows nothing of prompts
    bootstrap: Estimate | None = None  # crossed, over seeds and prompts: too short for few seeds
    bound: bool = False  # whether it is no estimate but an upper bound


# What is known of a cell. Rates are of its policies over the first one of the seed's SFT.
MEASURES = {
    "win_rate": "win rate over SFT",
    "length_controlled": "win rate over SFT, length-controlled",
    "length": "tokens a response",
    "kl": "KL to SFT, nats",
    "objective_accuracy": "accuracy of its objective on held-out pairs",
    "seconds": "seconds to train",
    "usd": "dollars for labels",
}
UP = frozenset({"win_rate", "length_controlled", "objective_accuracy"})  # more is better
COUNTS = frozenset({"length", "kl", "seconds", "usd"})  # never below zero


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRate(SeedEstimate):
    """The win rate of one cell over another, ties counted half; one half is no difference."""

    against: str  # the other cell's key
    against_label: str
    paired: bool  # seed by seed
    p_value: float | None  # two-sided, of no difference
    adjusted: float | None  # Holm, over all comparisons of the table
    verdict: Verdict

    def turned(self, against: Cell) -> CellRate:
        """The same seen from the other side, `against`."""
        t, bootstrap = (one and turned(one) for one in (self.t, self.bootstrap))
        other = turned(self)
        return replace(
            self, value=other.value, low=other.low, high=other.high,
            cell=against.key, label=against.label, arm=against.arm, setting=against.setting,
            against=self.cell, against_label=self.label, t=t, bootstrap=bootstrap,
            by_seed={seed: 1 - value for seed, value in self.by_seed.items()},
            verdict=_OTHER_SIDE.get(self.verdict, self.verdict),
        )  # fmt: skip


def turned(rate: Estimate) -> Estimate:
    """A rate as the other side sees it."""
    value, low, high = (None if x is None else 1 - x for x in (rate.value, rate.high, rate.low))
    return Estimate(value, low, high, rate.n)


@dataclass(frozen=True, slots=True)
class Standing:
    """One row of the leaderboard."""

    cell: str
    best: int  # rank, from best …
    worst: int  # … to worst, that the adjusted comparisons allow
    strength: Estimate | None  # Bradley-Terry log-strength


@dataclass(frozen=True)
class Aggregate:
    """Of a whole comparison."""

    confidence: float = 0.95
    cells: list[Cell] = field(default_factory=list)
    measures: list[SeedEstimate] = field(default_factory=list)
    rates: list[CellRate] = field(default_factory=list)  # every two cells once
    standings: list[Standing] = field(default_factory=list)  # best first
    note: str = ""  # what the intervals cover

    def measure(self, cell: str, measure: str) -> SeedEstimate | None:
        return next((one for one in self.measures if one.cell == cell and one.measure == measure), None)

    def rate(self, first: str, second: str) -> CellRate | None:
        """Of the cell `first` over `second`, whichever way round they were compared."""
        for one in self.rates:
            if (one.cell, one.against) == (first, second):
                return one
            if (one.cell, one.against) == (second, first):
                return one.turned(next(cell for cell in self.cells if cell.key == first))
        return None

    def over(self, cell: Cell, arm: str) -> CellRate | None:
        """The win rate of a cell over the cell of `arm` that shares most seeds, and then most settings, with it."""
        others = [one for one in self.cells if one.arm == arm and one.key != cell.key]
        others.sort(key=lambda one: (-len(one.policies.keys() & cell.policies.keys()), -_alike(one, cell)))
        rates = (self.rate(cell.key, one.key) for one in others)
        return next((rate for rate in rates if rate is not None), None) if cell.arm != arm else None


def _alike(first: Cell, second: Cell) -> int:
    return len(first.setting.items() & second.setting.items())


def verdict(mean: Mean, adjusted: float, confidence: float, null: float = 0.5) -> Verdict:
    """Needs two seeds: what one training run came to says nothing of the next."""
    if mean.seeds < 2:
        return "one seed" if mean.seeds else "unknown"
    if not adjusted <= 1 - confidence:
        return "undecided"
    return "better" if mean.value > null else "worse"
