"""The tables of the page: runs by what differs, label quality, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from morlaif.report.analysis import hacked, measured
from morlaif.report.comparison.data import SFT, Comparison, Policy, Run
from morlaif.report.comparison.labels import heading
from morlaif.report.data import SINGLE, words
from morlaif.report.labels import COLUMNS, quality_cost, train_quality, value_of
from morlaif.report.tables import DASH, interval, number

Row = Sequence[str]


def runs_table(data: Comparison) -> tuple[list[str], list[Row]]:
    """A row for each run: its name, the keys in which the runs differ, and its headline numbers."""
    keys = data.labels.keys
    columns = [
        ("win rate vs SFT", lambda run: interval(run.win_rate(run.arms[0], SFT))),
        ("vs single PM", lambda run: interval(run.win_rate(run.arms[0], SINGLE))),
        ("objective accuracy", _objective),
        ("KL, nats", lambda run: number(run.results["kl"], 1)),
        ("tokens", lambda run: number(run.results["length"].get("policy"), 1)),
    ]
    rows = [[run.name, *data.labels.row(run.config).values(), *(say(run) for _, say in columns)] for run in data.runs]
    filled = [k for k in range(len(columns)) if any(row[1 + len(keys) + k] != DASH for row in rows)]
    heads = ["run", *map(heading, keys), *(columns[k][0] for k in filled)]
    first = 1 + len(keys)
    return heads, [(*row[:first], *(row[first + k] for k in filled)) for row in rows]


def seeds_table(data: Comparison) -> tuple[list[str], list[Row]]:
    """Means over runs that differ in their seed alone, with the t interval of the mean: the seeds are the sample."""
    keys = [key for key in data.labels.keys if key != "seed"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in data.runs:
        row = data.labels.row(run.config)
        groups.setdefault(tuple(row[key] for key in keys), []).append(run)
    columns = [
        ("win rate vs SFT", lambda run: (run.win_rate(run.arms[0], SFT) or {}).get("value")),
        ("vs single PM", lambda run: (run.win_rate(run.arms[0], SINGLE) or {}).get("value")),
        ("objective accuracy", lambda run: (_measured(run) or {}).get("value")),
    ]
    rows = []
    for values, runs in groups.items():
        if len({run.config.get("seed") for run in runs}) == len(runs) > 1:
            own = [interval(mean_over([read(run) for run in runs], data.confidence)) for _, read in columns]
            rows.append((", ".join(values) or "all runs", str(len(runs)), *own))
    return [" · ".join(map(heading, keys)) or "runs", "seeds", *(name for name, _ in columns)], rows


def mean_over(values: Sequence[float | None], confidence: float) -> dict[str, Any] | None:
    """Mean of independent runs with Student's t interval, kept within 0 and 1; None unless two or more are known."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    half = stats.t.ppf((1 + confidence) / 2, len(known) - 1) * stdev(known) / sqrt(len(known))
    middle = fmean(known)
    return {"value": middle, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": len(known)}


def _objective(run: Run) -> str:
    return interval(_measured(run))


def _measured(run: Run) -> Any:
    """Accuracy of the run's objective: on human labels where there are any, else on the known truth."""
    return measured(run.results["objective_accuracy"].get(run.arms[0]) or {})


def quality_table(data: Comparison) -> tuple[list[str], list[Row]]:
    """A row for each different set of labels."""
    found: dict[str, tuple[str, Any]] = {}
    for models in data.models:
        for run in models.runs:
            for name, quality in run.details["label_quality"].items():
                told = words(name) + (f" · {models.label}" if len(data.models) > 1 else "")
                found.setdefault(run.units[f"feedback/{name}"], (told, quality))
    parts = [(name, train_quality(quality), quality) for name, quality in found.values()]
    keys = [key for key in COLUMNS if any(value_of(part.get(key)) is not None for _, part, _ in parts)]
    paid = any(quality_cost(quality)["usd"] for _, _, quality in parts)
    rows = []
    for name, part, quality in parts:
        usd = [f"{quality_cost(quality)['usd']:.2f}"] if paid else []
        rows.append((name, *(COLUMNS[key][1](part.get(key)) for key in keys), *usd))
    return ["labels", *(COLUMNS[key][0] for key in keys), *(["USD"] if paid else [])], rows


def budget_table(data: Comparison, seconds: dict[str, float]) -> tuple[list[str], list[Row], str]:
    """What each policy had to learn from, and whether all had the same. `seconds`: of building, by policy key."""
    rows, spent = [], []
    for policy in data.aligned:
        labels, rollouts, tokens = _budget(policy)
        spent.append((labels, rollouts))
        build = f"{seconds[policy.key]:.0f}" if policy.key in seconds else DASH
        rows.append((policy.label, str(_models(policy)), f"{labels:,}", f"{rollouts:,}", f"{tokens:,.0f}", build))
    equal = [len({budget[k] for budget in spent}) <= 1 for k in (0, 1)]
    told = [f"{what} {'are the same for all' if same else 'differ'}" for what, same in
            zip(("verdicts", "rollouts"), equal, strict=True)]  # fmt: skip
    heads = ["policy", "preference models", "verdicts", "PPO rollouts", "PPO tokens", "PPO seconds"]
    return heads, rows, f"What each policy had to learn from: {' and '.join(told)}."


def _budget(policy: Policy) -> tuple[int, int, float]:
    """Verdicts behind its preference models, rollouts of PPO and the tokens sampled in them."""
    run, config = policy.run, policy.run.config
    own = [SINGLE] if policy.arm == SINGLE else run.principles
    each = int(config.get("principles.verdicts_per_pair", 1)) if policy.arm == SINGLE else 1
    pairs = sum(quality["train"]["n"] for name in own if (quality := run.details["label_quality"].get(name)))
    rollouts = int(config.get("ppo.rollouts", 0))
    curve = run.curves[policy.arm]
    return pairs * each, rollouts * len(curve), sum(row.get("length") or 0.0 for row in curve) * rollouts


def _models(policy: Policy) -> int:
    return 1 if policy.arm == SINGLE else len(policy.run.principles)


def tradeoff_table(data: Comparison) -> tuple[list[str], list[Row]]:
    """What each policy gave up, how much of the space of principles it covers, and signs of reward hacking."""
    rows = []
    for policy in data.aligned:
        details, arm = policy.run.details, policy.arm
        lost = details.get("sacrificed") or {}
        worst = ((lost.get("truth") or lost.get("pm") or {}).get(arm)) or {}
        signs = (details.get("hacking") or {}).get(arm) or {}
        volume = data.judged.get("hypervolume", {}).get(policy.key)
        drift = (signs.get("length") or {}).get("change") or {}
        moved = f"{words(worst['principle'])} {number(worst['value'], sign=True)}" if worst else DASH
        lost_surely = "yes" if worst.get("lost") else "no"
        cells = (moved, lost_surely, number(volume), number(drift.get("value"), 1, sign=True))
        rows.append((policy.label, *cells, hacked(signs or None)))
    heads = ["policy", "moved least", "clearly lost", "hypervolume", "tokens more than SFT", "signs of hacking"]
    return heads, rows if any(set(row[1:]) - {DASH, "no"} for row in rows) else []


def strength_rows(data: Comparison) -> list[tuple[str, Any]]:
    """Policies by strength, strongest first: for the terminal and the page's first sentence."""
    found = data.judged.get("strengths") or {}
    known = [(policy.label, found[policy.key]) for policy in data.policies if policy.key in found]
    return sorted(known, key=lambda row: -row[1]["value"])
