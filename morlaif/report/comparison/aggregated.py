"""What the runs of a comparison say over seeds: each cell's measures, every two cells against one another, ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy

from morlaif.evaluation.aggregate import COUNTS, UP, Aggregate, Cell, CellRate, SeedEstimate, Standing, turned, verdict
from morlaif.evaluation.bradley_terry import pooled
from morlaif.evaluation.matrix import WinMatrix
from morlaif.evaluation.results import SFT, Estimate
from morlaif.evaluation.wins import versus
from morlaif.naming import labelled_by
from morlaif.report.analysis import measured
from morlaif.report.comparison.cells import cells, levels
from morlaif.report.comparison.data import ComparedRuns, Policy
from morlaif.report.labels import quality_cost
from morlaif.statistics import Array, Resampling, bootstrap_crossed
from morlaif.variance import Mean, components, cross_pairs, crossed, holm, over_prompts, over_seeds, rank_ranges

ONE_SEED = "one seed: the interval covers prompts alone"


@dataclass(frozen=True)
class Found:
    """Of a mean over seeds: the mean, and the matrix behind it where all seeds answered the same prompts."""

    mean: Mean
    by_seed: dict[str, float]
    values: Array | None = None  # (S, N)
    paired: bool = True
    on: frozenset[int] = frozenset()  # which matrices, so which prompts; empty: what the runs know


@dataclass(frozen=True)
class Judgements:
    """Every verdict, as the judge of the comparison gave it; without one, what the runs themselves know."""

    matrices: Sequence[WinMatrix] = ()  # policies by key; each of other prompts
    known: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)  # win rates of runs, by policies' keys
    doubt: str = ""  # why they bear no verdict in words

    def outcome(self, first: str, second: str) -> tuple[int, Array] | None:
        """Of the first on each prompt, and which prompts they are."""
        for k, matrix in enumerate(self.matrices):
            if first in matrix.names and second in matrix.names:
                found = matrix.between(first, second)
                return None if np.isnan(found).all() else (k, found)
        return None

    def rate(self, first: str, second: str) -> Estimate | None:
        other = self.known.get((second, first))
        return self.known.get((first, second)) or (other and turned(other))


def aggregated(data: ComparedRuns, judged: Judgements, how: Resampling, seconds: Mapping[str, float]) -> Aggregate:
    """`seconds`: of building, by policy key."""
    own = cells(data)
    level = how["confidence"]
    rates = [_rate(a, b, judged, how) for k, a in enumerate(own) for b in own[k + 1 :]]
    every = [rate for rate in rates if rate is not None]
    places = [on for *_, on in every]
    most = max(places, key=places.count, default=None)  # rates on other prompts share no table
    known = [(rate, mean) for rate, mean, on in every if on == most]
    adjusted = holm([math.nan if rate.p_value is None else rate.p_value for rate, _ in known])
    final = [
        replace(
            rate,
            adjusted=None if math.isnan(p) else p,
            verdict="unknown" if judged.doubt else verdict(mean, p, level),
        )
        for (rate, mean), p in zip(known, adjusted, strict=True)
    ]
    found = Aggregate(level, own, [], final)
    measures = [one for cell in own for one in _measures(cell, data, found, how, seconds)]
    few = any(rate.seeds < 2 for rate in final)
    note = ONE_SEED if few and all(rate.seeds < 2 for rate in final) else ""
    if few and not note:
        note = "some arms have one seed: their intervals cover prompts alone"
    if len(known) < len(every):
        note += f"{'; ' * bool(note)}arms that answered other prompts are in no table with these"
    if judged.doubt:
        note += f"{'; ' * bool(note)}no verdict in words: of the judge, {judged.doubt}"
    return replace(found, measures=measures, standings=_standings(found, judged, how), note=note)


# --- every two cells ------------------------------------------------------------------------------------------------


def _rate(
    first: Cell, second: Cell, judged: Judgements, how: Resampling
) -> tuple[CellRate, Mean, frozenset[int]] | None:
    found = against(first, second, judged, how)
    if math.isnan(found.mean.value):
        return None
    p = found.mean.p_value(0.5)
    estimate = _estimate(found, first, "rate", how)
    rate = CellRate(
        **{name: getattr(estimate, name) for name in SeedEstimate.__dataclass_fields__},
        against=second.key, against_label=second.label, paired=found.paired,
        p_value=None if math.isnan(p) else p, adjusted=None, verdict="unknown",
    )  # fmt: skip
    return rate, found.mean, found.on


def against(first: Cell, second: Cell, judged: Judgements, how: Resampling) -> Found:
    """Seed by seed where both have one; else each policy of the one against each of the other."""
    shared = [seed for seed in first.policies if seed in second.policies]
    pairs = {seed: (first.policies[seed], second.policies[seed]) for seed in shared}
    paired = bool(pairs)
    if not paired:
        rows, columns = (list(dict.fromkeys(cell.policies.values())) for cell in (first, second))
        outcomes = [[judged.outcome(a, b) for b in columns] for a in rows]
        flat = [one for row in outcomes for one in row]
        if all(one is not None for one in flat) and len({one[0] for one in flat if one}) == 1:
            mean = cross_pairs([[one[1] for one in row if one] for row in outcomes], share=True)
            return Found(mean, {}, paired=False, on=frozenset(one[0] for one in flat if one))
        return Found(over_seeds([]), {}, paired=False)
    seen = {seed: one for seed, pair in pairs.items() if (one := judged.outcome(*pair)) is not None}
    if not seen:
        rates = {seed: rate for seed, pair in pairs.items() if (rate := judged.rate(*pair)) is not None}
        values_of = {seed: rate.value for seed, rate in rates.items() if rate.value is not None}
        found = _of_seeds(values_of, {seed: pairs[seed] for seed in values_of})
        alone = next(iter(rates.values())) if rates and len({pairs[seed] for seed in values_of}) == 1 else None
        return replace(found, mean=_within(alone, how)) if alone is not None else found
    by_seed = {seed: float(np.nanmean(outcome)) for seed, (_, outcome) in seen.items()}
    on = frozenset(k for k, _ in seen.values())
    if len(on) > 1:  # each seed has prompts of its own
        return replace(_of_seeds(by_seed, {seed: pairs[seed] for seed in seen}), on=on)
    values = np.array([outcome for _, outcome in seen.values()])
    different = {pairs[seed]: row for seed, row in zip(seen, values, strict=True)}
    if len(different) == 1:
        return Found(over_prompts(values[0], share=True), by_seed, values[:1], on=on)
    mean = crossed(values, seeds=levels(list(seen)), share=True)
    return Found(replace(mean, seeds=len(different)), by_seed, values, on=on)


def _within(rate: Estimate, how: Resampling) -> Mean:
    """One seed's rate, from its interval over prompts."""
    if rate.value is None or rate.low is None or rate.high is None or rate.n < 2:
        return over_seeds([math.nan if rate.value is None else rate.value], share=True)
    half = (rate.high - rate.low) / 2 / scipy.stats.t.ppf((1 + how["confidence"]) / 2, rate.n - 1)
    return Mean(rate.value, ((float(half**2), rate.n - 1.0),), 1, rate.n, "prompts", share=True)


def _of_seeds(values: dict[str, float], made_by: Mapping[str, object], *, share: bool = True) -> Found:
    """From a number for each seed; `made_by` tells which seeds come from one and the same policies."""
    different = len(set(made_by.values()))
    if different < 2:
        return Found(over_seeds(list(values.values())[:1], share=share), values)
    mean = over_seeds(list(values.values()), seeds=levels(list(values)), share=share)
    return Found(replace(mean, seeds=different), values)


def _estimate(found: Found, cell: Cell, measure: str, how: Resampling) -> SeedEstimate:
    mean, values = found.mean, found.values
    several = values is not None and len(values) > 1
    split = components(values) if several and values is not None else None
    t = over_seeds(list(found.by_seed.values()), share=mean.share)
    crossed_ = Estimate.of(bootstrap_crossed(values.T, **how)) if several and values is not None else None
    main = Estimate.of(mean.interval(how["confidence"]))
    if measure in COUNTS and main.low is not None:
        main = replace(main, low=max(0.0, main.low))
    return SeedEstimate(
        value=main.value, low=main.low, high=main.high, n=main.n, cell=cell.key, label=cell.label, arm=cell.arm,
        setting=cell.setting, measure=measure, seeds=mean.seeds, method=mean.method, by_seed=found.by_seed,
        shares=split.shares if split else None, t=Estimate.of(t.interval(how["confidence"])) if several else None,
        bootstrap=crossed_,
    )  # fmt: skip


# --- each cell ------------------------------------------------------------------------------------------------------


def _measures(
    cell: Cell, data: ComparedRuns, found: Aggregate, how: Resampling, seconds: Mapping[str, float]
) -> list[SeedEstimate]:
    """What is known of a cell, in the order of MEASURES."""
    policies = {policy.key: policy for policy in data.policies}
    own = {seed: policies[key] for seed, key in cell.policies.items()}
    made: list[SeedEstimate] = []
    if (over := found.over(cell, SFT)) is not None:
        fields = {name: getattr(over, name) for name in SeedEstimate.__dataclass_fields__ if hasattr(over, name)}
        made.append(SeedEstimate(**{**fields, "measure": "win_rate"}))
    read: dict[str, Callable[[Policy], Estimate | float | None]] = {
        "length_controlled": lambda policy: policy.run.details.length_controlled.get(versus(policy.name, SFT)),
        "length": lambda policy: policy.run.results.length.get(policy.name),
        "kl": _kl,
        "objective_accuracy": lambda policy: measured(policy.run.results.objective_accuracy.get(policy.name) or {}),
        "seconds": lambda policy: seconds.get(policy.key),
        "usd": _usd,
    }
    for measure, of in read.items():
        known = {seed: one for seed, policy in own.items() if (one := _known(of(policy))) is not None}
        values = {seed: one.value for seed, one in known.items() if one.value is not None}
        if not values:
            continue
        over_all = _of_seeds(values, {seed: cell.policies[seed] for seed in values}, share=measure in UP)
        one = _estimate(over_all, cell, measure, how)
        first = next(iter(known.values()))
        if one.method == "none" and first.low is not None:  # one seed, or what does not depend on it
            one = replace(one, low=first.low, high=first.high, n=first.n, method="prompts")
        bound = measure == "kl" and all(policy.arm is not None and policy.arm.kl_bound for policy in own.values())
        made.append(replace(one, bound=bound))
    return made


def _known(found: Estimate | float | None) -> Estimate | None:
    """A number as an estimate without an interval; None where there is no value."""
    one = found if isinstance(found, Estimate) or found is None else Estimate(found, None, None, 0)
    return None if one is None or one.value is None else one


def _kl(policy: Policy) -> float | None:
    signs = policy.run.details.hacking.get(policy.name)
    if signs is not None and signs.kl is not None:
        return signs.kl
    return policy.run.results.kl if policy.name == policy.run.policy else None


def _usd(policy: Policy) -> float | None:
    budget = policy.run.details.budget.arms.get(policy.name)
    written = None if budget is None else budget.completion_usd
    if policy.arm is None or not policy.arm.models:
        return written
    names = dict.fromkeys(map(labelled_by, policy.arm.models))
    known = [policy.run.details.label_quality[name] for name in names if name in policy.run.details.label_quality]
    return sum(quality_cost(quality)["usd"] for quality in known) + (written or 0.0) if known else written


# --- who is first ---------------------------------------------------------------------------------------------------


def _standings(found: Aggregate, judged: Judgements, how: Resampling) -> list[Standing]:
    """Best first: by strength, else by the win rate over SFT."""
    if not found.rates:
        return []
    place = {cell.key: k for k, cell in enumerate(found.cells)}
    better = [[False] * len(place) for _ in place]
    alone = all(rate.seeds < 2 for rate in found.rates) and not judged.doubt  # ranks too are over prompts alone
    for rate in found.rates:
        surely = alone and rate.adjusted is not None and rate.adjusted <= 1 - how["confidence"]
        if (surely or rate.verdict in ("better", "worse")) and rate.value is not None:
            i, j = place[rate.cell], place[rate.against]
            better[i][j], better[j][i] = rate.value > 0.5, rate.value < 0.5
    strength = _strengths(found.cells, judged, how)
    made = [
        Standing(cell.key, *ranks, strength.get(cell.key))
        for cell, ranks in zip(found.cells, rank_ranges(better), strict=True)
    ]
    over = {cell.key: found.over(cell, SFT) for cell in found.cells}

    def order(one: Standing) -> tuple[float, float]:
        rate = over[one.cell]
        strong, won = (0.0 if own is None or own.value is None else own.value for own in (one.strength, rate))
        return -strong, -(won if rate else 0.5)

    return sorted(made, key=order)


def _strengths(own: Sequence[Cell], judged: Judgements, how: Resampling) -> dict[str, Estimate]:
    """By cell, of all verdicts together; empty where not all policies answered the same prompts."""
    if len(judged.matrices) != 1 or len(own) < 2:
        return {}
    seeds: list[dict[tuple[str, str], Array]] = []
    for seed in dict.fromkeys(seed for cell in own for seed in cell.policies):
        there = [cell for cell in own if seed in cell.policies]
        outcomes = {
            (a.key, b.key): judged.outcome(a.policies[seed], b.policies[seed])
            for a, b in itertools.combinations(there, 2)
        }
        known = {pair: one[1] for pair, one in outcomes.items() if one is not None}
        if known:
            seeds.append(known)
    try:
        found = pooled([cell.key for cell in own], seeds, **how) if seeds else None
    except ValueError:  # arms that share no seed are compared by their rates alone
        return {}
    return {key: Estimate.of(one) for key, one in zip(found.names, found.strength, strict=True)} if found else {}
