"""Weights of principles that move while a policy learns, and the constraints that move them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from morlaif.report.data import RunData, words
from morlaif.report.drawing import multiples
from morlaif.report.style import PALETTE
from morlaif.report.tables import Rows, number
from morlaif.report.training import arm_legend, dashes, thinned

# What a step's row calls them, and the page: of constraints; of a schedule or the hypervolume; of MGDA and PCGrad.
KINDS = {"objective/lambda/": "multiplier", "objective/factor/": "factor", "gradient_weight/": "weight by gradients"}
LEVEL = "objective/level/"  # of `constrained`: the ratio to the SFT policy's
Points = list[tuple[float, float]]


def weights(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Points]]:
    """What kind of weight each principle has, and how it is at each step; empty where none ever moves."""
    found: dict[str, tuple[str, Points]] = {}
    for start, kind in KINDS.items():
        for key in dict.fromkeys(key for row in rows for key in row if key.startswith(start)):
            found.setdefault(key.removeprefix(start), (kind, [(row["step"], row[key]) for row in rows if key in row]))
    moves = any(abs(value - points[0][1]) > 1e-9 for _, points in found.values() for _, value in points)
    return found if moves else {}


@dataclass(frozen=True)
class Constraint:
    """What an arm's objective holds a principle to."""

    name: str
    unit: str
    least: float  # at each step's mean, by the constraint
    points: Points


def constraints(run: RunData, arm: str) -> list[Constraint]:
    """Of the run's scalarizer, as far as the arm was trained on it."""
    rows = run.curves[arm]
    scalarizer = run.config.get("scalarizer") or {}
    params = scalarizer.get("params") or {}
    function = str(scalarizer.get("function", "")).rpartition(".")[2]
    if function == "constrained":
        return [
            Constraint(name, "of SFT\u2019s", level, [(row["step"], row[key]) for row in rows if key in row])
            for name, level in params["hold"].items()
            if any((key := f"{LEVEL}{name}") in row for row in rows)
        ]
    if function == "lagrangian" and (own := run.details.weights.get(arm)) is not None:
        scale = {name: own.direction[k] * own.weight[k] for k, name in enumerate(own.names)}
        return [
            Constraint(name, "deviations", least, [(row["step"], scale[name] * row[f"score/{name}"]) for row in rows])
            for name, least in zip(params["constraints"], params["thresholds"], strict=True)
            if name in scale and rows and f"objective/lambda/{name}" in rows[0]
        ]
    return []


def figure(run: RunData) -> Figure | None:
    """Small multiples: each principle's weight over the steps, then each constraint's mean beside its level."""
    moving = {arm: found for arm in run.drawn if (found := weights(run.curves[arm]))}
    held = {arm: own for arm in run.drawn if (own := constraints(run, arm))}
    names = list(dict.fromkeys(name for found in moving.values() for name in found))
    kept = list(dict.fromkeys((one.name, one.unit) for own in held.values() for one in own))
    if not names:
        return None
    titles = [words(name) for name in names] + [f"{words(name)}, {unit}" for name, unit in kept]
    made, panels = multiples(titles)
    for name in names:
        panel = next(panels)
        for arm, found in moving.items():
            if name in found:
                index, points = run.drawn.index(arm), thinned(found[name][1])
                panel.plot(*zip(*points, strict=True), color=PALETTE.of(index), linestyle=dashes(index))
    for name, unit in kept:
        panel = next(panels)
        for arm, constraint in ((arm, one) for arm, every in held.items() for one in every):
            if (constraint.name, constraint.unit) == (name, unit):
                index, points = run.drawn.index(arm), thinned(constraint.points)
                panel.axhline(constraint.least, color=PALETTE.orange, linewidth=1, linestyle=(0, (3, 3)))
                panel.plot(*zip(*points, strict=True), color=PALETTE.of(index), linestyle=dashes(index))
    arm_legend(made, run)
    return made


def weight_rows(run: RunData) -> Rows:
    """Of each arm's weights that move: kind, first, highest and last."""
    rows: list[Sequence[str]] = []
    for arm in run.arms:
        for name, (kind, points) in weights(run.curves[arm]).items():
            values = [value for _, value in points]
            shown = (number(value) for value in (values[0], max(values), values[-1]))
            rows.append((run.label(arm), words(name), kind, *shown))
    return rows


def constraint_rows(run: RunData) -> Rows:
    """Of each constraint: its level, the mean at the first step, over the last third of the steps and at the last."""
    rows: list[Sequence[str]] = []
    for arm in run.arms:
        for one in constraints(run, arm):
            values = [value for _, value in one.points]
            late = values[-max(1, len(values) // 3) :]
            shown = (number(value) for value in (one.least, values[0], sum(late) / len(late), values[-1]))
            rows.append((run.label(arm), words(one.name), one.unit, *shown))
    return rows
