"""Fronts on a run's page: the points that each way reaches, what they cover and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from morlaif.evaluation.fronts import DIRECT, FrontPoint, Fronts, WayFront
from morlaif.evaluation.results import Estimate
from morlaif.report.data import RunData, words
from morlaif.report.drawing import WIDTH, figure
from morlaif.report.section import Drawing, Panel, Section, Table
from morlaif.report.style import PALETTE, SERIES
from morlaif.report.tables import DASH, interval, number, percent

NAMES = {"soup": "soup", "direct": "direct training", "conditioned": "conditioned"}
MARKERS = {"soup": "o", "direct": "s", "conditioned": "^"}


def fronts(run: RunData) -> Section | None:
    found = run.fronts
    if found is None:
        return None
    first = next(iter(found.ways.values()))
    names = list(first.objectives)
    drawn = ("front", "front_wins") if len(names) == 2 else ("front_parallel", "front_matrix")
    drawings = [_drawing(name, names) for name in drawn]
    panels = [Panel(_TITLES[drawing.name], _note(drawing.name, first), None, drawing.name) for drawing in drawings]
    panels.append(Panel("Ways", _WAYS, _ways(found)))
    panels.append(Panel("Points", _points_note(first), _points(found)))
    return Section("fronts", "Fronts", panels, drawings, template="section_fronts.html.j2")


_TITLES = {
    "front": "What each choice of weights reaches",
    "front_wins": "Win rate along the front",
    "front_parallel": "Each choice of weights over all objectives",
    "front_matrix": "Every two objectives",
}
_HOLLOW = "Hollow: another point of the way is better throughout."
_WAYS = (
    "Samples and minutes: of the policies’ training; preference models, which all ways share, are left out. "
    "Hypervolume: of the means over prompts. Relative: to direct training’s, paired by prompt. Of the corners’ "
    "box: above the worst and up to the best that policies of one objective reach, where the chord has ½. Spacing "
    "(Schott 1995): 0 is even. ε: by how much all points would have to rise to reach each of direct training’s "
    "(Zitzler 2003)."
)


def _note(name: str, way: WayFront) -> str:
    by = "the known truth" if way.measure == "truth" else "the preference models"
    where = f"Change against SFT in deviations of SFT’s answers, by {by}."
    return {
        "front": f"{where} Dashed: the chord between the policies of one objective each. {_HOLLOW}",
        "front_wins": f"Over SFT, by {words(way.judge)}, on {way.prompts} prompts; ties count half.",
        "front_parallel": f"{where} Thin: another point of the way is better throughout.",
        "front_matrix": f"{where} {_HOLLOW}",
    }[name]


def _points_note(way: WayFront) -> str:
    scores = (
        "Mean true scores"
        if way.measure == "truth"
        else "Change against SFT by the preference models, in deviations of SFT’s answers"
    )
    base = ", ".join(f"{words(name)} {number(value)}" for name, value in way.sft.items())
    return f"{scores}; in brackets, in deviations of SFT’s answers, how far above the chord. SFT: {base}."


def _drawing(name: str, objectives: Sequence[str]) -> Drawing:
    made = {"front": _scatter, "front_wins": _wins, "front_parallel": _parallel, "front_matrix": _matrix}[name]
    return Drawing(name, partial(_drawn, make=made), f"{_TITLES[name]}: {', '.join(map(words, objectives))}")


def _drawn(run: RunData, make: Callable[[Fronts], Figure]) -> Figure | None:
    return None if run.fronts is None else make(run.fronts)


# --- tables ---------------------------------------------------------------------------------------------------------


def _ways(found: Fronts) -> Table:
    heads = [
        "way", "policies", "samples", "minutes", "hypervolume", "relative to direct", "of the corners’ box", "spacing",
        "ε to direct", "dominated",
    ]  # fmt: skip
    rows = []
    for name, way in found.ways.items():
        measured, cost = found.against.get(name), way.cost
        rows.append(
            (
                NAMES.get(name, name),
                str(cost.policies),
                DASH if cost.episodes is None else f"{cost.episodes:,}",
                DASH if cost.seconds is None else number(cost.seconds / 60, 1),
                _bounded(way.hypervolume),
                interval(measured.relative) if measured else ("100 %" if name == DIRECT and found.against else DASH),
                number(way.box),
                number(way.spacing),
                number(measured.epsilon) if measured else DASH,
                f"{sum(point.dominated for point in way.points)} of {len(way.points)}",
            )
        )
    return Table(heads, rows)


def _bounded(i: Estimate) -> str:
    """A number, and its bounds in small type beside it."""
    return number(i.value) + Markup(' <span class="ci">{}–{}</span>').format(number(i.low), number(i.high))


def _points(found: Fronts) -> Table:
    first = next(iter(found.ways.values()))
    objectives = list(first.objectives)
    heads = [" : ".join(map(words, objectives))]
    for name in found.ways:
        heads += [*(f"{name}: {words(objective)}" for objective in objectives), f"{name}: wins"]
    rows = []
    for k, point in enumerate(first.points):
        row = [" : ".join(f"{weight:.3g}" for weight in point.weights.values())]
        for way in found.ways.values():
            row += [_reached(way.points[k], name) for name in objectives]
            row.append(percent(way.points[k].win_rate.value))
        rows.append(tuple(row))
    return Table(heads, rows)


def _reached(point: FrontPoint, objective: str) -> str:
    value = point.truth[objective] if point.truth else point.place[objective].value
    above = point.above_chord[objective] if point.above_chord else None
    alone = max(point.weights.values()) == 1
    return number(value) + ("" if above is None or alone else f" ({number(above, sign=True)})")


# --- figures --------------------------------------------------------------------------------------------------------


def _look(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _scatter(found: Fronts) -> Figure:
    made, ((axes,),) = figure(3.6)
    first = next(iter(found.ways.values()))
    for place, way in enumerate(found.ways.values()):
        _spots(axes, way, 0, 1, _look(place), line=True)
    corners = [point for point in first.points if max(point.weights.values()) == 1]
    ends = np.array([[one.value for one in point.place.values()] for point in corners], dtype=float)
    axes.plot(ends[:, 0], ends[:, 1], color=PALETTE.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.plot(0, 0, "x", color=PALETTE.ink, markersize=5, zorder=2)
    axes.annotate("SFT", (0, 0), xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=PALETTE.muted)
    names = list(first.objectives)
    axes.set_xlabel(f"{words(names[0])}, deviations over SFT")
    axes.set_ylabel(f"{words(names[1])}, deviations over SFT")
    _legend(made, axes, found)
    return made


def _spots(axes: Axes, way: WayFront, x: int, y: int, colour: str, line: bool) -> None:
    """The points of a way in two coordinates; hollow where another is better throughout."""
    at = way.places
    if line:
        axes.plot(at[:, x], at[:, y], color=colour, linewidth=1.1, alpha=0.6, zorder=2)
    for k, point in enumerate(way.points):
        face = PALETTE.surface if point.dominated else colour
        axes.plot(
            at[k, x], at[k, y], MARKERS.get(way.way, "D"), color=colour, markerfacecolor=face, markersize=5, zorder=3
        )


def _legend(made: Figure, axes: Axes, found: Fronts) -> None:
    handles = [
        axes.plot([], [], color=_look(place), marker=MARKERS.get(way, "D"), markersize=5)[0]
        for place, way in enumerate(found.ways)
    ]
    made.legend(handles, [NAMES.get(way, way) for way in found.ways], loc="outside upper left", ncols=len(handles))


def _wins(found: Fronts) -> Figure:
    made, ((axes,),) = figure(3.6)
    first = next(iter(found.ways.values()))
    second = list(first.objectives)[1]
    for place, way in enumerate(found.ways.values()):
        known = [point for point in way.points if point.win_rate.value is not None]
        x = [point.weights[second] + 0.006 * (place - 0.5) for point in known]
        rates = [point.win_rate for point in known]
        axes.plot(x, [rate.value for rate in rates], color=_look(place), marker=MARKERS.get(way.way, "D"), markersize=4)
        axes.vlines(x, [rate.low for rate in rates], [rate.high for rate in rates], color=_look(place), linewidth=1.2)
    axes.axhline(0.5, color=PALETTE.muted, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlabel(f"weight of {words(second)}")
    axes.set_ylabel("win rate over SFT")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(made, axes, found)
    return made


def _parallel(found: Fronts) -> Figure:
    made, ((axes,),) = figure(3.4)
    names = list(next(iter(found.ways.values())).objectives)
    for place, way in enumerate(found.ways.values()):
        for point, values in zip(way.points, way.places, strict=True):
            thin = point.dominated
            axes.plot(
                range(len(names)), values, color=_look(place), linewidth=0.6 if thin else 1.1,
                alpha=0.35 if thin else 0.8, marker=MARKERS.get(way.way, "D"), markersize=3,
            )  # fmt: skip
    axes.axhline(0, color=PALETTE.muted, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xticks(range(len(names)), [words(name) for name in names])
    axes.set_ylabel("deviations over SFT")
    _legend(made, axes, found)
    return made


def _matrix(found: Fronts) -> Figure:
    names = list(next(iter(found.ways.values())).objectives)
    count = len(names) - 1
    made, axes = figure(min(1.0 + 1.5 * count, 2 * WIDTH), count, count, sharex="col", sharey="row")
    for row in range(count):
        for column in range(count):
            panel = axes[row, column]
            if column > row:
                panel.set_visible(False)
                continue
            for place, way in enumerate(found.ways.values()):
                _spots(panel, way, column, row + 1, _look(place), line=False)
            panel.tick_params(labelsize=7)
            if column == 0:
                panel.set_ylabel(words(names[row + 1]), fontsize=8)
            if row == count - 1:
                panel.set_xlabel(words(names[column]), fontsize=8)
    _legend(made, axes[0, 0], found)
    return made
