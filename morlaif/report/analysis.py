"""What the page says beyond accuracies and win rates: fewer principles, other scalarizers, trade-offs, budgets.

Each part is left out where an evaluation has nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from morlaif.report.data import RunData, comparison, words
from morlaif.report.tables import DASH, change_cell, interval, number, percent

KINDS = {"human": "human labels", "truth": "known truth"}
BUDGETS = {
    "pms": "preference models", "pm_pairs": "training pairs, all models", "verdicts": "verdicts",
    "pm_steps": "training steps, all models", "rank": "LoRA rank", "ppo_steps": "PPO steps",
    "ppo_episodes": "PPO episodes", "usd": "USD for labels",
}  # fmt: skip


def context(run: RunData) -> dict[str, Any]:
    """The variables of the page's template."""
    regression = run.details.get("regression") or {}
    told = regression.get("sentences") or ([regression["problem"]] if "problem" in regression else [])
    return {
        "controlled_rows": _controlled(run),
        "scalarizer_heads": ["objective", *(KINDS[kind] for kind in _kinds(run))],
        "scalarizer_rows": _scalarizers(run),
        "ablation_heads": ["principles", *(KINDS[kind] for kind in _kinds(run)), "random subsets", "ceiling"],
        "ablation_rows": _ablation(run),
        "left_out_rows": _left_out(run),
        "cross_names": [words(name) for name in (run.details.get("cross_accuracy") or {}).get("labels", ())],
        "cross_rows": _cross(run),
        "tradeoff_rows": _tradeoffs(run),
        "budget_heads": ["", *(run.label(arm) for arm in _budgets(run))],
        "budget_rows": _budget_rows(run),
        "budget_note": _budget_note(run),
        "regression_sentence": " ".join(told),
    }


def measured(kinds: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """On human labels where there are any, else on the known truth."""
    return next((kinds[kind] for kind in KINDS if (kinds.get(kind) or {}).get("value") is not None), None)


def _controlled(run: RunData) -> list[Sequence[str]]:
    """Win rates with the effect of length taken out; in place of one that is withheld, the reason."""
    return [
        (
            comparison(run, key),
            f"withheld: {rate['withheld']}" if rate.get("withheld") else interval(rate),
            number((rate.get("coef_length") or {}).get("value"), sign=True),
            percent(rate.get("longer"), 0),
        )
        for key, rate in (run.details.get("length_controlled") or {}).items()
    ]


def _kinds(run: RunData) -> list[str]:
    found = (run.details.get("scalarizer_accuracy") or {}).values()
    return [kind for kind in KINDS if any((one.get(kind) or {}).get("n") for one in found)]


def _scalarizers(run: RunData) -> list[Sequence[str]]:
    """The same models under every scalarizer, best first, and preferring the longer response."""
    found = run.details.get("scalarizer_accuracy") or {}
    order = sorted(found, key=lambda name: -((measured(found[name]) or {}).get("value") or 0))
    rows = [(name.replace("_", "-"), found[name]) for name in order]
    if baseline := run.details.get("length_baseline"):
        rows.append(("the longer response", baseline))
    return [(name, *(interval(one.get(kind)) for kind in _kinds(run))) for name, one in rows] if order else []


def _ablation(run: RunData) -> list[Sequence[str]]:
    table = run.details.get("ablation") or {}
    sampled = {row["count"]: row for row in table.get("random") or ()}
    rows = []
    for row in table.get("nested") or ():
        other = sampled.get(row["count"], {})
        own = [interval(row["accuracy"].get(kind)) for kind in _kinds(run)]
        rest = [interval(measured(other.get(part) or {})) for part in ("accuracy", "ceiling")]
        rows.append((str(row["count"]), *own, *rest))
    return rows


def _left_out(run: RunData) -> list[Sequence[str]]:
    """Accuracy without one principle, the most missed first."""
    rows = (run.details.get("ablation") or {}).get("leave_one_out") or ()
    known = [(row, found) for row in rows if (found := measured(row["accuracy"]))]
    return [
        (words(row["without"]), interval(found), change_cell(measured(row["change"])))
        for row, found in sorted(known, key=lambda one: one[1]["value"])
    ]


def _cross(run: RunData) -> list[Sequence[str]]:
    found = run.details.get("cross_accuracy")
    if not found:
        return []
    return [
        (words(name), *(percent(x, 0) for x in row)) for name, row in zip(found["models"], found["value"], strict=True)
    ]


def _tradeoffs(run: RunData) -> list[Sequence[str]]:
    """For each policy what moved least, how much of the space of principles it covers, and signs of hacking."""
    details = run.details
    lost, signs = details.get("sacrificed") or {}, details.get("hacking") or {}
    view = details.get("pareto") or {}
    volume = (view.get("truth") or view).get("relative") or {}
    rows = []
    for arm in run.arms:
        worst = (lost.get("truth") or lost.get("pm") or {}).get(arm)
        own = signs.get(arm)
        if worst is None and own is None:
            continue
        moved = f"{words(worst['principle'])} {number(worst['value'], sign=True)}" if worst else DASH
        drift = ((own or {}).get("length") or {}).get("change") or {}
        agree = percent(((own or {}).get("agreement") or {}).get("value"))
        cells = (moved, number(volume.get(arm)), agree, number(drift.get("value"), 1, sign=True))
        rows.append((run.label(arm), *cells, hacked(own)))
    return rows


def hacked(signs: Mapping[str, Any] | None) -> str:
    """In words what speaks for reward hacking."""
    if signs is None:
        return DASH
    told = [f"{words(name)} {kind}" for kind in ("hacked", "hollow") for name in signs.get(kind) or ()]
    return ", ".join([*told, *(["judged worse than SFT"] if signs.get("judged_worse") else [])]) or "none"


def _budgets(run: RunData) -> dict[str, Mapping[str, Any]]:
    found = run.details.get("budget") or {}
    return {arm: found[arm] for arm in run.arms if arm in found}


def _budget_rows(run: RunData) -> list[Sequence[str]]:
    budgets = _budgets(run)
    rows = [(name, [budget.get(key) for budget in budgets.values()]) for key, name in BUDGETS.items()]
    return [(name, *(_amount(x) for x in values)) for name, values in rows if any(x is not None for x in values)]


def _budget_note(run: RunData) -> str:
    found = run.details.get("budget") or {}
    if len(_budgets(run)) < 2:
        return "What the policy had to learn from."
    if found.get("equal"):
        return "The arms had the same labels, settings and episodes: what differs is how many models share them."
    differs = ", ".join(BUDGETS.get(key, words(key)) for key in found.get("differs") or ())
    return f"The arms did not have the same: {differs}. A difference between them may be one of budget."


def _amount(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
