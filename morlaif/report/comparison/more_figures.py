"""Figures beyond the paper's: strengths, what each policy gains and gives up, fronts, and how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from morlaif.evaluation.results import Estimate
from morlaif.report.comparison.charts import Chart, Dots, Heatmap, Line, Lines, LinesPanel, Point, Scatter, Series, Spot
from morlaif.report.comparison.data import Arm, ComparedRuns, mean_of
from morlaif.report.comparison.figures import PLAIN, covered
from morlaif.report.comparison.kept import at_equal_kl, kept_path
from morlaif.report.data import words
from morlaif.report.moving import KINDS, weights

MOST_POINTS = 120  # of a curve; longer ones are thinned for the page, not for the data


def strengths(data: ComparedRuns) -> Chart | None:
    labels = {arm.cell.key: arm.cell.label for arm in data.arms}
    rows = [one for one in data.aggregate.standings if one.strength]
    if len(rows) < 3:
        return None
    several = any(rate.seeds > 1 for rate in data.aggregate.rates)
    return Dots(
        "strengths", "Strength of each arm",
        "Bradley–Terry log-strengths of all comparisons together, ties included; their mean is 0, and a "
        f"difference of 1 is won about 73 % of the time. Lines are intervals over "
        f"{'seeds and prompts' if several else 'prompts alone'}.",
        [labels[one.cell] for one in rows], [Series("strength", [Point.of(one.strength) for one in rows], PLAIN)],
        "log-strength", "number", 0.0,
    )  # fmt: skip


def win_against_kl(data: ComparedRuns) -> Chart | None:
    """How far each arm went from SFT, and what it won by it: at its end, or where it was kept on the way."""
    if len(paths := [path for arm in data.trained if len(path := kept_path(arm, data.confidence)) > 1]) > 1:
        lines = [
            Line(
                path[0].label, [0.0, *(one.kl for one in path)], [0.5, *(one.win_rate.value or 0.0 for one in path)],
                path[0].colour, marked=True,
            )
            for path in paths
        ]  # fmt: skip
        where = "; ".join(f"{one.label} {one.kl:.1f} nats, {one.win_rate.value or 0:.1%}" for one in at_equal_kl(data))
        return Lines(
            "win_against_kl", "Win rate over SFT against KL",
            "Policies that each arm kept on its way, means over its seeds. The nearest to an equal KL: " + where + ".",
            [LinesPanel("win rate over SFT", lines, 0.5)], "KL to SFT, nats", "percent", integers=False,
        )  # fmt: skip
    lines = []
    for arm in data.trained:
        kl, rate = data.aggregate.measure(arm.cell.key, "kl"), data.aggregate.measure(arm.cell.key, "win_rate")
        if kl and rate and kl.value is not None and rate.value is not None:
            low, high = ([rate.low], [rate.high]) if rate.low is not None and rate.high is not None else (None, None)
            label = f"{arm.cell.label}{' (KL: bound)' if kl.bound else ''}"
            line = Line(label, [kl.value], [rate.value], arm.colour, marked=True)
            lines.append(line if low is None or high is None else replace(line, low=low, high=high))
    if len(lines) < 2:
        return None
    return Lines(
        "win_against_kl", "Win rate over SFT against KL",
        f"Arms compare fairly at an equal KL. Upright lines are intervals over {covered(data)}.",
        [LinesPanel("win rate over SFT", lines, 0.5)], "KL to SFT, nats", "percent", integers=False,
    )  # fmt: skip


def changes(data: ComparedRuns) -> Chart | None:
    """Arms by principles: the change against SFT."""
    rows = data.trained
    moved = [_change(arm, data.confidence) for arm in rows]
    columns = [name for name in data.principles if any(name in own for own in moved)]
    if not rows or not columns:
        return None
    true = all(arm.policy.run.details.true_change for arm in rows)
    return Heatmap(
        "changes", "What each arm gains and gives up",
        ("Change of the true score" if true else "Change of the preference model’s score")
        + " against SFT on the same prompts, in standard deviations of SFT’s responses. Orange: sacrificed.",
        [arm.cell.label for arm in rows], [words(name) for name in columns],
        [[Point.of(own.get(name)) for name in columns] for own in moved], 0.0, 1.5, "number",
    )  # fmt: skip


def pareto(data: ComparedRuns) -> Chart | None:
    names = data.principles
    spots = []
    for arm in data.trained:
        own = _change(arm, data.confidence)
        values = [own[name].value for name in names if name in own]
        known = [value for value in values if value is not None]
        if len(known) == len(names):
            spots.append(Spot(arm.cell.label, known, arm.colour))
    if len(names) < 2 or len(spots) < 2:
        return None
    spots.append(Spot("SFT", [0.0] * len(names), max(arm.colour for arm in data.trained) + 1))
    return Scatter(
        "pareto", "Two principles at a time",
        "Change against SFT, in standard deviations of its responses. The line joins the arms that no other "
        "beats on both. In print: the two principles on which the arms disagree most.",
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
        lines = [_curve(arm, key, gain=key == "reward") for arm in data.trained]
        if any(lines):
            panels.append(LinesPanel(title, [line for line in lines if line]))
    if not panels:
        return None
    return Lines(
        "curves", "Learning curves",
        "Means over each step’s rollouts. Each objective has a scale of its own: there compare shapes." + _bands(data),
        panels, "step", "number", columns=len(panels),
    )  # fmt: skip


def _bands(data: ComparedRuns) -> str:
    several = any(len(arm.policies) > 1 for arm in data.trained)
    return " Lines are means over seeds, bands reach from the lowest seed to the highest." if several else ""


def principle_curves(data: ComparedRuns) -> Chart | None:
    panels = []
    for name in data.principles:
        lines = [_curve(arm, f"score/{name}") for arm in data.trained]
        if any(lines):
            panels.append(LinesPanel(words(name), [line for line in lines if line], 0.0))
    if not panels:
        return None
    return Lines(
        "principle_curves", "Each principle during PPO",
        "Score of the rollouts by each preference model, in standard deviations of SFT’s responses; 0 is where "
        "training began. The single model’s policy has no such scores during training." + _bands(data),
        panels, "step", "number", columns=3, same_scale=True,
    )  # fmt: skip


def weight_curves(data: ComparedRuns) -> Chart | None:
    """Of the arms whose weights move: one that holds all its weights is drawn nowhere."""
    moving = [arm for arm in data.trained if any(weights(one.run.curves[one.name]) for one in arm.policies)]
    panels = []
    for name in data.principles:
        found = (_curve(arm, f"{kind}{name}") for arm in moving for kind in KINDS)
        if lines := [line for line in found if line]:
            panels.append(LinesPanel(words(name), lines))
    if not panels:
        return None
    return Lines(
        "weight_curves", "Weights that move",
        "What each principle counts for at each step: multipliers of constraints, factors of a schedule or of the "
        "hypervolume, weights by gradients. Each is in the unit of its own objective." + _bands(data),
        panels, "PPO step", "number", columns=3,
    )  # fmt: skip


def _curve(arm: Arm, key: str, gain: bool = False) -> Line | None:
    """Of the steps that all its seeds have: their mean, and from the lowest to the highest."""
    seeds = []
    for policy in arm.policies:
        rows = {row["step"]: row[key] for row in policy.run.curves[policy.name] if row.get(key) is not None}
        if rows:
            start = rows[min(rows)] if gain else 0.0
            seeds.append({step: value - start for step, value in rows.items()})
    steps = sorted(set.intersection(*(set(own) for own in seeds))) if seeds else []
    if not steps:
        return None
    each = math.ceil(len(steps) / MOST_POINTS)
    kept = [step for k, step in enumerate(steps) if k % each == 0 or k == len(steps) - 1]
    values = [[own[step] for own in seeds] for step in kept]
    line = Line(arm.cell.label, kept, [round(sum(own) / len(own), 5) for own in values], arm.colour)
    if len(seeds) == 1:
        return line
    return replace(line, low=[round(min(own), 5) for own in values], high=[round(max(own), 5) for own in values])


def _change(arm: Arm, confidence: float) -> Mapping[str, Estimate]:
    """Means over seeds."""
    seeds = [(p.run.details.true_change or p.run.details.score_change)[p.name] for p in arm.policies]
    names = dict.fromkeys(name for own in seeds for name in own)
    found = {name: mean_of([own[name] for own in seeds if name in own], confidence) for name in names}
    return {name: one for name, one in found.items() if one is not None}
