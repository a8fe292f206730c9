"""The tables of the page: runs by what differs, label quality, budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from morlaif.evaluation.results import SFT, Estimate
from morlaif.naming import labelled_by
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
    for arm in data.trained:
        policy = arm.policy
        labels, rollouts, tokens = _budget(policy)
        spent.append((labels, rollouts))
        build = f"{seconds[policy.key]:.0f}" if policy.key in seconds else DASH
        rows.append(
            (arm.cell.label, str(len(_models(policy))), f"{labels:,}", f"{rollouts:,}", f"{tokens:,.0f}", build)
        )
    equal = [len({budget[k] for budget in spent}) <= 1 for k in (0, 1)]
    budgets = [f"{what} {'are the same for all' if same else 'differ'}" for what, same in
            zip(("verdicts", "rollouts"), equal, strict=True)]  # fmt: skip
    heads = ["arm", "preference models", "verdicts", "PPO rollouts", "PPO tokens", "PPO seconds"]
    of_seed = ", each seed" if any(len(arm.policies) > 1 for arm in data.trained) else ""
    return heads, rows, f"What each arm had to learn from{of_seed}: {' and '.join(budgets)}."


def _budget(policy: Policy) -> tuple[int, int, float]:
    """Verdicts behind its preference models, rollouts of PPO and the tokens sampled in them."""
    run, config = policy.run, policy.run.config
    each = 1 if policy.of_principles else int(config.get("principles.verdicts_per_pair", 1))
    names = dict.fromkeys(map(labelled_by, _models(policy)))
    pairs = sum(run.details.label_quality[name]["train"]["n"] for name in names)
    spent = run.details.budget.arms.get(policy.name)  # a policy that learns from pairs has no rollouts
    return pairs * each, (spent and spent.ppo_episodes) or 0, (spent and spent.ppo_tokens) or 0.0


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
