"""What the page says beyond accuracies and win rates: fewer principles, other scalarizers, trade-offs, budgets.

Each part is left out where an evaluation has nothing of the kind.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from morlaif.evaluation.results import Accuracies, Budgets, ControlledRate, Estimate, RegressionFound, Signs
from morlaif.report.data import RunData, words
from morlaif.report.tables import DASH, Rows, change_cell, interval, number, percent

KINDS = {"human": "human labels", "truth": "known truth"}
BUDGETS = {
    "pms": "preference models", "adapters": "networks trained for them", "parameters": "their parameters that learn",
    "rank": "LoRA rank", "verdicts": "verdicts", "label_tokens": "tokens of labelling", "ratings": "ratings",
    "completions": "teacher’s completions", "completion_tokens": "tokens of them",
    "usd": "USD for labels, ratings and completions", "pm_pairs": "training pairs, all models",
    "pm_steps": "optimizer steps, all models",
    "pm_flops": "FLOPs of their training", "ppo_steps": "steps of the policy", "ppo_episodes": "its samples",
    "ppo_tokens": "tokens of these", "scoring_flops": "FLOPs of scoring them",
}  # fmt: skip


def of_models(run: RunData) -> dict[str, Any]:
    """The tables beside the accuracies of the preference models."""
    kinds = [KINDS[kind] for kind in _kinds(run)]
    return {
        "scalarizer_heads": ["objective", *kinds],
        "scalarizer_rows": _scalarizers(run),
        "ablation_heads": ["principles", *kinds, "random subsets", "ceiling"],
        "ablation_rows": _ablation(run),
        "left_out_rows": _left_out(run),
        "cross_names": [words(name) for name in run.details.cross_accuracy.labels],
        "cross_rows": _cross(run),
    }


def measured(kinds: Accuracies) -> Estimate | None:
    """On human labels where there are any, else on the known truth."""
    return next((kinds[kind] for kind in KINDS if kind in kinds and kinds[kind].value is not None), None)


def controlled_rows(run: RunData) -> Rows:
    """Win rates with the effect of length taken out, by what the answers differ in and by their ratio; in place of one
    that is withheld, the reason."""
    by_ratio = run.details.length_ratio_controlled
    return [
        (
            run.comparison(key),
            *(_controlled(found.get(key)) for found in (run.details.length_controlled, by_ratio)),
            number(rate.coef_length.value, sign=True),
            percent(rate.longer, 0),
        )
        for key, rate in run.details.length_controlled.items()
    ]


def _controlled(rate: ControlledRate | None) -> str:
    if rate is None:
        return interval(None)
    return f"withheld: {rate.withheld}" if rate.withheld else interval(rate)


def rate_rows(run: RunData) -> Rows:
    """Each policy's share of yes to each question about single responses."""
    return [
        (name.replace("_", " "), run.label(policy), interval(rate), str(rate.invalid))
        for name, found in run.details.rates.items()
        for policy, rate in found.items()
    ]


def _kinds(run: RunData) -> list[str]:
    found = run.details.scalarizer_accuracy.values()
    return [kind for kind in KINDS if any(kind in one and one[kind].n for one in found)]


def _scalarizers(run: RunData) -> Rows:
    """The same models under every scalarizer, best first, and preferring the longer response."""
    found = run.details.scalarizer_accuracy
    order = sorted(found, key=lambda name: -(_value(found[name]) or 0))
    rows = [(name.replace("_", "-"), found[name]) for name in order]
    if run.details.length_baseline:
        rows.append(("the longer response", run.details.length_baseline))
    return [(name, *(interval(one.get(kind)) for kind in _kinds(run))) for name, one in rows] if order else []


def _value(kinds: Accuracies) -> float | None:
    return found.value if (found := measured(kinds)) else None


def _ablation(run: RunData) -> Rows:
    table = run.details.ablation
    if table is None:
        return []
    sampled, rows = {row.count: row for row in table.random}, []
    for row in table.nested:
        own = [interval(row.accuracy.get(kind)) for kind in _kinds(run)]
        other = sampled.get(row.count)
        rest = [interval(measured(part)) for part in ((other.accuracy, other.ceiling) if other else ({}, {}))]
        rows.append((str(row.count), *own, *rest))
    return rows


def _left_out(run: RunData) -> Rows:
    """Accuracy without one principle, the most missed first."""
    rows = run.details.ablation.leave_one_out if run.details.ablation else []
    known = [row for row in rows if measured(row.accuracy)]
    return [
        (words(row.without), interval(measured(row.accuracy)), change_cell(measured(row.change)))
        for row in sorted(known, key=lambda row: _value(row.accuracy) or 0)
    ]


def _cross(run: RunData) -> Rows:
    found = run.details.cross_accuracy
    return [(words(name), *(percent(x, 0) for x in row)) for name, row in zip(found.models, found.value, strict=True)]


def tradeoff_rows(run: RunData) -> Rows:
    """For each policy what moved least, how much of the space of principles it covers, and signs of hacking."""
    lost, volume = run.details.sacrificed, run.details.pareto.relative
    rows = []
    for arm in run.arms:
        worst, own = (lost.truth or lost.pm).get(arm), run.details.hacking.get(arm)
        if worst is None and own is None:
            continue
        moved = f"{words(worst.principle)} {number(worst.value, sign=True)}" if worst else DASH
        agree = percent(own.agreement.value if own and own.agreement else None)
        drift = number(own.length.change.value if own else None, 1, sign=True)
        rows.append((run.label(arm), moved, number(volume.get(arm)), agree, drift, hacked(own)))
    return rows


def hacked(signs: Signs | None) -> str:
    """In words what speaks for reward hacking."""
    if signs is None:
        return DASH
    kinds = {"hacked": signs.hacked, "hollow": signs.hollow}
    found = [f"{words(name)} {kind}" for kind, names in kinds.items() for name in names]
    return ", ".join([*found, *(["judged worse than SFT"] if signs.judged_worse else [])]) or "none"


def budget_rows(run: RunData) -> Rows:
    budgets = [asdict(budget) for budget in run.details.budget.arms.values()]
    rows = [(name, [budget[key] for budget in budgets]) for key, name in BUDGETS.items()]
    return [(name, *(_amount(x) for x in values)) for name, values in rows if any(x is not None for x in values)]


def budget_note(found: Budgets) -> str:
    if len(found.arms) < 2:
        return "What the policy had to learn from."
    same, differs = (", ".join(_budget_name(key) for key in keys) for keys in (found.same, found.differs))
    if found.equal:
        return f"The arms had equal budgets: {same}."
    equal = f"Equal for all arms: {same}. " if same else ""
    return f"{equal}Not equal: {differs}. A difference between the arms may be one of these."


def _budget_name(key: str) -> str:
    return BUDGETS.get(key, {"pm_pairs_each": "training pairs of a model"}.get(key, words(key)))


def regression_sentence(found: RegressionFound | None) -> str:
    if found is None:
        return ""
    return found.problem or " ".join(found.sentences)


def _amount(value: float | None) -> str:
    if value is None:
        return DASH
    if isinstance(value, int) or value >= 1e4:
        return f"{value:.2e}" if value >= 1e9 else f"{value:,.0f}"
    return f"{value:,.2f}"
