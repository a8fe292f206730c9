"""The tables of the page: runs by what differs, label quality, budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from morlaif.evaluation.results import SFT, Estimate
from morlaif.report.analysis import hacked, measured
from morlaif.report.comparison.data import ComparedRun, ComparedRuns, Policy
from morlaif.report.comparison.labels import heading
from morlaif.report.data import words
from morlaif.report.labels import COLUMNS, quality_cost, train_quality, value_of
from morlaif.report.tables import DASH, Rows, interval, number


def runs_table(data: ComparedRuns) -> tuple[list[str], Rows]:
    """A row for each run: its name, the keys in which the runs differ, and its headline numbers."""
    keys = data.labels.keys
    columns: dict[str, Callable[[ComparedRun], str]] = {name: _cell(read) for name, read in _estimates(data).items()}
    columns["KL, nats"] = lambda run: number(run.results.kl, 1)
    columns["tokens"] = lambda run: number(run.results.length.get(run.policy), 1)
    rows = [[run.name, *data.labels.row(run.config).values(), *(say(run) for say in columns.values())]
            for run in data.runs]  # fmt: skip
    filled = [k for k in range(len(columns)) if any(row[1 + len(keys) + k] != DASH for row in rows)]
    heads = ["run", *map(heading, keys), *(list(columns)[k] for k in filled)]
    first = 1 + len(keys)
    return heads, [(*row[:first], *(row[first + k] for k in filled)) for row in rows]


def seeds_table(data: ComparedRuns) -> tuple[list[str], Rows]:
    """Means over runs that differ in their seed alone, with the t interval of the mean: the seeds are the sample."""
    keys = [key for key in data.labels.keys if key != "seed"]
    groups: dict[tuple[str, ...], list[ComparedRun]] = {}
    for run in data.runs:
        row = data.labels.row(run.config)
        groups.setdefault(tuple(row[key] for key in keys), []).append(run)
    columns = _estimates(data)
    rows: list[Sequence[str]] = []
    for values, runs in groups.items():
        if len({run.config.get("seed") for run in runs}) == len(runs) > 1:
            own = [interval(mean_over([_value(read(run)) for run in runs], data.confidence))
                   for read in columns.values()]  # fmt: skip
            rows.append((", ".join(values) or "all runs", str(len(runs)), *own))
    return [" · ".join(map(heading, keys)) or "runs", "seeds", *columns], rows


def mean_over(values: Sequence[float | None], confidence: float) -> Estimate | None:
    """Mean of independent runs with Student's t interval, kept within 0 and 1; None unless two or more are known."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    half = stats.t.ppf((1 + confidence) / 2, len(known) - 1) * stdev(known) / sqrt(len(known))
    middle = fmean(known)
    return Estimate(middle, max(0.0, middle - half), min(1.0, middle + half), len(known))


def _estimates(data: ComparedRuns) -> dict[str, Callable[[ComparedRun], Estimate | None]]:
    """The headline numbers of a run, by the heads of their columns: its policy over SFT and over each other arm, and
    the accuracy of its objective."""

    def over(other: str) -> Callable[[ComparedRun], Estimate | None]:
        return lambda run: run.win_rate(run.policy, other)

    found = {"win rate vs SFT": over(SFT)}
    found |= {f"vs {named.removeprefix('the ')}": over(other) for other, named in data.others.items()}
    return {**found, "objective accuracy": _objective}


def _objective(run: ComparedRun) -> Estimate | None:
    """On human labels where there are any, else on the known truth."""
    return measured(run.results.objective_accuracy.get(run.policy) or {})


def _cell(read: Callable[[ComparedRun], Estimate | None]) -> Callable[[ComparedRun], str]:
    return lambda run: interval(read(run))


def _value(found: Estimate | None) -> float | None:
    return found.value if found else None


def quality_table(data: ComparedRuns) -> tuple[list[str], Rows]:
    """A row for each different set of labels."""
    found: dict[str, tuple[str, Any]] = {}
    for models in data.models:
        for run in models.runs:
            for name, quality in run.details.label_quality.items():
                label = words(name) + (f" · {models.label}" if len(data.models) > 1 else "")
                found.setdefault(run.units[f"feedback/{name}"], (label, quality))
    parts = [(name, train_quality(quality), quality) for name, quality in found.values()]
    keys = [key for key in COLUMNS if any(value_of(part.get(key)) is not None for _, part, _ in parts)]
    paid = any(quality_cost(quality)["usd"] for _, _, quality in parts)
    rows = []
    for name, part, quality in parts:
        usd = [f"{quality_cost(quality)['usd']:.2f}"] if paid else []
        rows.append((name, *(COLUMNS[key][1](part.get(key)) for key in keys), *usd))
    return ["labels", *(COLUMNS[key][0] for key in keys), *(["USD"] if paid else [])], rows


def budget_table(data: ComparedRuns, seconds: dict[str, float]) -> tuple[list[str], Rows, str]:
    """What each policy had to learn from, and whether all had the same. `seconds`: of building, by policy key."""
    rows, spent = [], []
    for policy in data.aligned:
        labels, rollouts, tokens = _budget(policy)
        spent.append((labels, rollouts))
        build = f"{seconds[policy.key]:.0f}" if policy.key in seconds else DASH
        rows.append((policy.label, str(len(_models(policy))), f"{labels:,}", f"{rollouts:,}", f"{tokens:,.0f}", build))
    equal = [len({budget[k] for budget in spent}) <= 1 for k in (0, 1)]
    budgets = [f"{what} {'are the same for all' if same else 'differ'}" for what, same in
            zip(("verdicts", "rollouts"), equal, strict=True)]  # fmt: skip
    heads = ["policy", "preference models", "verdicts", "PPO rollouts", "PPO tokens", "PPO seconds"]
    return heads, rows, f"What each policy had to learn from: {' and '.join(budgets)}."


def _budget(policy: Policy) -> tuple[int, int, float]:
    """Verdicts behind its preference models, rollouts of PPO and the tokens sampled in them."""
    run, config = policy.run, policy.run.config
    each = 1 if policy.of_principles else int(config.get("principles.verdicts_per_pair", 1))
    pairs = sum(run.details.label_quality[name]["train"]["n"] for name in _models(policy))
    rollouts = int(config.get("ppo.rollouts", 0))
    curve = run.curves[policy.name]
    return pairs * each, rollouts * len(curve), sum(row.get("length") or 0.0 for row in curve) * rollouts


def _models(policy: Policy) -> list[str]:
    return policy.arm.models if policy.arm else []


def tradeoff_table(data: ComparedRuns) -> tuple[list[str], Rows]:
    """What each policy gave up, how much of the space of principles it covers, and signs of reward hacking."""
    rows = []
    for policy in data.aligned:
        lost, signs = policy.run.details.sacrificed, policy.run.details.hacking.get(policy.name)
        worst = (lost.truth or lost.pm).get(policy.name)
        moved = f"{words(worst.principle)} {number(worst.value, sign=True)}" if worst else DASH
        surely = "yes" if worst and worst.lost else "no"
        volume = number(data.judged.hypervolume.get(policy.key))
        drift = number(signs.length.change.value if signs else None, 1, sign=True)
        rows.append((policy.label, moved, surely, volume, drift, hacked(signs)))
    heads = ["policy", "moved least", "clearly lost", "hypervolume", "tokens more than SFT", "signs of hacking"]
    return heads, rows if any(set(row[1:]) - {DASH, "no"} for row in rows) else []


def strength_rows(data: ComparedRuns) -> list[tuple[str, Estimate]]:
    """Policies by strength, strongest first: for the terminal and the page's first sentence."""
    found = data.judged.strengths
    known = [(policy.label, found[policy.key]) for policy in data.policies if policy.key in found]
    return sorted(known, key=lambda row: -(row[1].value or 0))
