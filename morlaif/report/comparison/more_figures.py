"""Figures beyond the paper's: strengths, what each policy gains and gives up, fronts, and how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from morlaif.evaluation.results import Estimate
from morlaif.report.comparison.charts import Chart, Dots, Heatmap, Line, Lines, LinesPanel, Point, Scatter, Series, Spot
from morlaif.report.comparison.data import ComparedRuns, Policy
from morlaif.report.data import words

MOST_POINTS = 120  # of a curve; longer ones are thinned for the page, not for the data


def strengths(data: ComparedRuns) -> Chart | None:
    found = data.judged.strengths
    rows = sorted((p for p in data.policies if p.key in found), key=lambda policy: -(found[policy.key].value or 0))
    if len(rows) < 3:
        return None
    return Dots(
        "strengths", "Strength of each policy",
        "Bradley–Terry log-strengths of all comparisons together, ties included; their mean is 0, and a "
        "difference of 1 is won about 73 % of the time. Lines are bootstrap intervals over prompts.",
        [policy.label for policy in rows], [Series("strength", [Point.of(found[p.key]) for p in rows], 0)],
        "log-strength", "number", 0.0,
    )  # fmt: skip


def changes(data: ComparedRuns) -> Chart | None:
    """Policies by principles: the change against SFT."""
    rows = data.aligned
    moved = [_change(policy) for policy in rows]
    columns = [name for name in data.principles if any(name in own for own in moved)]
    if not rows or not columns:
        return None
    true = all(policy.run.details.true_change for policy in rows)
    return Heatmap(
        "changes", "What each policy gains and gives up",
        ("Change of the true score" if true else "Change of the preference model’s score")
        + " against SFT on the same prompts, in standard deviations of SFT’s responses. Orange: sacrificed.",
        [policy.label for policy in rows], [words(name) for name in columns],
        [[Point.of(own.get(name)) for name in columns] for own in moved], 0.0, 1.5, "number",
    )  # fmt: skip


def pareto(data: ComparedRuns) -> Chart | None:
    names = data.principles
    spots = []
    for k, policy in enumerate(data.aligned):
        own = _change(policy)
        values = [own[name].value for name in names if name in own]
        known = [value for value in values if value is not None]
        if len(known) == len(names):
            spots.append(Spot(policy.label, known, k))
    if len(names) < 2 or len(spots) < 2:
        return None
    spots.append(Spot("SFT", [0.0] * len(names), len(data.aligned)))
    return Scatter(
        "pareto", "Two principles at a time",
        "Change against SFT, in standard deviations of its responses. The line joins the policies that no other "
        "beats on both. In print: the two principles on which the policies disagree most.",
        [words(name) for name in names], spots, _widest(spots, len(names)),
    )  # fmt: skip


def _widest(spots: Sequence[Spot], count: int) -> tuple[int, int]:
    """The two axes with the most negative correlation between policies: where one is paid for with the other."""
    columns = [[spot.values[k] for spot in spots] for k in range(count)]
    means = [sum(column) / len(column) for column in columns]
    spread = [math.sqrt(sum((x - m) ** 2 for x in column)) or 1.0 for column, m in zip(columns, means, strict=True)]

    def together(i: int, j: int) -> float:
        dot = sum((x - means[i]) * (y - means[j]) for x, y in zip(columns[i], columns[j], strict=True))
        return dot / (spread[i] * spread[j])

    return min(((i, j) for i in range(count) for j in range(i + 1, count)), key=lambda pair: together(*pair))


def curves(data: ComparedRuns) -> Chart | None:
    """The gain in the objective rather than the objective: objectives of different runs have different origins."""
    panels = []
    titles = {"reward": "gain of the objective", "kl": "KL to SFT, nats", "length": "tokens a response"}
    for key, title in titles.items():
        lines = [_curve(policy, key, k, gain=key == "reward") for k, policy in enumerate(data.aligned)]
        if any(lines):
            panels.append(LinesPanel(title, [line for line in lines if line]))
    if not panels:
        return None
    return Lines(
        "curves", "Learning curves",
        "Means over each step’s rollouts. Each objective has a scale of its own: there compare shapes.",
        panels, "PPO step", "number", columns=len(panels),
    )  # fmt: skip


def principle_curves(data: ComparedRuns) -> Chart | None:
    panels = []
    for name in data.principles:
        lines = [_curve(policy, f"score/{name}", k) for k, policy in enumerate(data.aligned)]
        if any(lines):
            panels.append(LinesPanel(words(name), [line for line in lines if line], 0.0))
    if not panels:
        return None
    return Lines(
        "principle_curves", "Each principle during PPO",
        "Score of the rollouts by each preference model, in standard deviations of SFT’s responses; 0 is where "
        "training began. The single model’s policy has no such scores during training.",
        panels, "PPO step", "number", columns=3, same_scale=True,
    )  # fmt: skip


def _curve(policy: Policy, key: str, colour: int, gain: bool = False) -> Line | None:
    rows = [row for row in policy.run.curves[policy.name] if row.get(key) is not None]
    if not rows:
        return None
    start = rows[0][key] if gain else 0.0
    step = math.ceil(len(rows) / MOST_POINTS)
    kept = [row for k, row in enumerate(rows) if k % step == 0 or k == len(rows) - 1]
    return Line(policy.label, [row["step"] for row in kept], [round(row[key] - start, 5) for row in kept], colour)


def _change(policy: Policy) -> Mapping[str, Estimate]:
    details = policy.run.details
    return (details.true_change or details.score_change)[policy.name]
