"""The figures of a report: functions from the data of a run to a matplotlib Figure, sized to be read on a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from morlaif.evaluation.results import Estimate
from morlaif.report.analysis import measured
from morlaif.report.data import RunData, words
from morlaif.report.style import PALETTE, as_matrix
from morlaif.report.tables import pm_accuracies

WIDTH = 4.25  # inches
Series = tuple[str, Mapping[str, Estimate], str, bool]  # label, intervals by row, colour, filled marker


def figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    made = Figure(figsize=(WIDTH, height), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False, **options)


def dots(axes: Axes, rows: Sequence[str], series: Sequence[Series]) -> None:
    """A dot with its interval for each row and series, rows from top to bottom."""
    offsets = np.linspace(0.16, -0.16, len(series)) if len(series) > 1 else [0.0]
    for offset, (_, intervals, colour, filled) in zip(offsets, series, strict=True):
        for y, row in enumerate(reversed(rows)):
            i = intervals.get(row)
            if i is None or i.value is None:
                continue
            if i.low is not None and i.high is not None:
                axes.plot([i.low, i.high], [y + offset] * 2, color=colour, linewidth=1.8, zorder=2)
            face = colour if filled else PALETTE.surface
            axes.plot(
                i.value, y + offset, "o", color=colour, markerfacecolor=face, markersize=5, zorder=3, clip_on=False
            )
    axes.set_yticks(range(len(rows)), [words(row) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def legend(made: Figure, series: Sequence[Series]) -> None:
    """Above the axes; left out for one series."""
    if len(series) < 2:
        return
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=5, markerfacecolor=colour if filled else PALETTE.surface)
        for _, _, colour, filled in series
    ]
    made.legend(handles, [label for label, *_ in series], loc="outside upper left", ncols=len(series))


def win_rates(run: RunData) -> Figure:
    rows = {run.comparison(key): rate for key, rate in run.results.win_rate.items()}
    made, ((axes,),) = figure(0.6 + 0.36 * len(rows))
    axes.axvline(0.5, color=PALETTE.muted, linewidth=1, linestyle=(0, (3, 3)))
    dots(axes, list(rows), [("", rows, PALETTE.blue, True)])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("win rate (ties count half)")
    return made


def pm_accuracy(run: RunData) -> Figure | None:
    if not run.names:
        return None
    own = pm_accuracies(run)
    series: list[Series] = [("on held-out labels", own, PALETTE.blue, True)]
    if run.results.pm_truth_accuracy:
        series.append(("on the known truth", run.results.pm_truth_accuracy, PALETTE.orange, False))
    rows = sorted(run.principles, key=lambda name: -(own[name].value or 0)) + [n for n in own if n in run.whole]
    made, ((axes,),) = figure(0.9 + 0.27 * len(rows))
    dots(axes, rows, series)
    lows = [i.low for _, values, *_ in series for i in values.values() if i.low is not None]
    axes.set_xlim(min([0.5, *lows]) - 0.02, 1.005)
    axes.axvline(0.5, color=PALETTE.muted, linewidth=1, linestyle=(0, (3, 3)))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("pairs ordered rightly (chance: 50 %)")
    legend(made, series)
    return made


def objective_accuracy(run: RunData) -> Figure | None:
    if not set(run.results.objective_accuracy) & set(run.arms):
        return None
    rows = {run.objective_name(arm): values for arm, values in run.results.objective_accuracy.items()}
    kinds = [("human", "on human labels", PALETTE.blue, True), ("truth", "on the known truth", PALETTE.orange, False)]
    series: list[Series] = [
        (label, {row: values[kind] for row, values in rows.items() if kind in values}, colour, filled)
        for kind, label, colour, filled in kinds
        if any(values[kind].n for values in rows.values() if kind in values)
    ]
    made, ((axes,),) = figure(0.8 + 0.4 * len(rows))
    dots(axes, list(rows), series)
    axes.set_xlim(0.45, 1.01)
    axes.axvline(0.5, color=PALETTE.muted, linewidth=1, linestyle=(0, (3, 3)))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("held-out pairs ordered rightly")
    legend(made, series)
    return made


def correlations(run: RunData) -> Figure | None:
    """Lower triangle: feedback labels. Upper triangle: preference models' scores."""
    if not run.names:
        return None
    matrix = run.details.correlation
    labels, scores, small = matrix.labels, matrix.scores, len(matrix.names) > 8

    def cell(i: int, j: int) -> tuple[str, float] | None:
        value = (labels if i > j else scores)[i][j]
        if value is None:
            return None
        text = f"{abs(value):.2f}".removeprefix("0") if small else f"{abs(value):.2f}"
        return ("−" if round(value, 2) < 0 else "") + text, value

    return heatmap(matrix.names, cell)


def label_agreement(run: RunData) -> Figure | None:
    """How often the labels of two principles take the same side, in per cent; a half is chance. None for one alone."""
    if len(run.principles) < 2:
        return None
    names, agreement = run.details.labels.names, run.details.labels.agreement

    def cell(i: int, j: int) -> tuple[str, float] | None:
        value = agreement[i][j]
        return None if value is None else (f"{100 * value:.0f}", 2 * value - 1)

    return heatmap(names, cell)


def cross_accuracy(run: RunData) -> Figure | None:
    """Each model (row) on the labels of each principle (column), in per cent."""
    found = run.details.cross_accuracy
    if len(found.models) < 2:
        return None

    def cell(i: int, j: int) -> tuple[str, float] | None:
        value = found.value[i][j]
        return None if value is None else (f"{100 * value:.0f}", 2 * value - 1)

    return heatmap(found.labels, cell, diagonal=True)


def ablation(run: RunData) -> Figure | None:
    """Accuracy of the objective against how many of its principles it has."""
    table = run.details.ablation
    if table is None:
        return None
    nested = [(row.count, measured(row.accuracy)) for row in table.nested]
    sampled = [(row.count, measured(row.accuracy)) for row in table.random]
    ceiling = [(row.count, measured(row.ceiling)) for row in table.random]
    lines = ((nested, "listed order", PALETTE.blue, "-"),
             (sampled, "random subsets", PALETTE.orange, (0, (4, 1.5))),
             (ceiling, "ceiling", PALETTE.muted, (0, (1.5, 1.2))))  # fmt: skip
    made, ((axes,),) = figure(2.6)
    for rows, label, colour, dashes in lines:
        points = [(count, one.value, one.low, one.high) for count, one in rows if one]
        if points:
            x, y, low, high = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=3, label=label)
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    if not axes.lines:
        return None
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("principles")
    axes.tick_params(axis="y", labelcolor=PALETTE.muted)
    made.legend(loc="outside upper left", ncols=3)
    return made


def heatmap(
    names: Sequence[str], cell: Callable[[int, int], tuple[str, float] | None], diagonal: bool = False
) -> Figure:
    """A square for each two of `names`: what it says, and from −1 (orange) to 1 (blue) how it is coloured."""
    count = len(names)
    made, ((axes,),) = figure(WIDTH * 0.98)
    for i in range(count):
        for j in range(count):
            if (i == j and not diagonal) or (shown := cell(i, j)) is None:
                continue
            text, value = shown
            colour = PALETTE.blue if value > 0 else PALETTE.orange
            alpha = 0.08 + 0.62 * min(1, abs(value))
            axes.add_patch(Rectangle((j, i), 0.94, 0.94, facecolor=colour, alpha=alpha, linewidth=0))
            axes.text(j + 0.47, i + 0.5, text, ha="center", va="center", fontsize=6.2 if count > 8 else 8)
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    axes.set_aspect("equal")
    ticks = np.arange(count) + 0.47
    axes.set_xticks(ticks, [words(n) for n in names], rotation=55, ha="left", rotation_mode="anchor", color=PALETTE.ink)
    axes.set_yticks(ticks, [words(n) for n in names])
    as_matrix(axes)
    return made


def training(run: RunData) -> Figure:
    panels = [("reward", "objective"), ("kl", "KL to SFT"), ("length", "tokens")]
    made, axes = figure(4.2, len(panels), 1, sharex=True)
    for row, (key, label) in enumerate(panels):
        _curves(axes[row, 0], run, key)
        axes[row, 0].set_ylabel(label)
        axes[row, 0].yaxis.set_major_locator(MaxNLocator(4))
    axes[-1, 0].set_xlabel("PPO step")
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    made.align_ylabels()
    _arm_legend(made, run)
    return made


def training_principles(run: RunData) -> Figure | None:
    """Small multiples: each principle's normalised score during PPO, one scale for all."""
    names = run.rewarded
    if not names:
        return None
    columns = 3
    rows = math.ceil(len(names) / columns)
    made, axes = figure(0.5 + 1.02 * rows, rows, columns, sharex=True, sharey=True)
    for place, panel in enumerate(axes.flat):
        if place >= len(names):
            panel.set_visible(False)
            continue
        panel.axhline(0, color=PALETTE.muted, linewidth=0.8, linestyle=(0, (3, 3)))
        _curves(panel, run, f"score/{names[place]}")
        panel.set_title(words(names[place]), fontsize=8, loc="left", pad=3)
        panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(labelcolor=PALETTE.muted, labelsize=7)
    made.supxlabel("PPO step", fontsize=8.5, color=PALETTE.muted)
    return made


def _curves(axes: Axes, run: RunData, key: str) -> None:
    for index, arm in enumerate(run.arms):
        points = [(row["step"], row[key]) for row in run.curves[arm] if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=PALETTE.of(index), linestyle=_dashes(index))
    axes.tick_params(axis="y", labelcolor=PALETTE.muted, labelsize=8)


def _dashes(arm: int) -> Any:
    return "-" if arm == 0 else (0, (4, 1.5))


def _arm_legend(made: Figure, run: RunData) -> None:
    if len(run.arms) > 1:
        handles = [Line2D([], [], color=PALETTE.of(i), linestyle=_dashes(i)) for i in range(len(run.arms))]
        made.legend(handles, [run.label(arm) for arm in run.arms], loc="outside upper left", ncols=len(run.arms))


def changes(run: RunData) -> Figure | None:
    """What the policy gained and gave up, by principle: by the known truth where there is one, else by the PMs."""
    moved = run.details.true_change or run.details.score_change
    if not any(moved.values()):
        return None
    series: list[Series] = [
        (run.label(arm), moved[arm], PALETTE.of(index), index == 0) for index, arm in enumerate(run.arms)
    ]
    first = moved[run.policy]
    shown = [name for name in first if name not in run.whole or not run.principles]
    rows = sorted(shown, key=lambda name: -(first[name].value or 0))
    made, ((axes,),) = figure(0.9 + 0.27 * len(rows))
    axes.axvline(0, color=PALETTE.muted, linewidth=1, linestyle=(0, (3, 3)))
    dots(axes, rows, series)
    axes.set_xlabel("change against SFT (standard deviations)")
    legend(made, series)
    return made


FIGURES: Mapping[str, Callable[[RunData], Figure | None]] = {  # None: the run has nothing of the kind
    "win_rates": win_rates,
    "changes": changes,
    "pm_accuracy": pm_accuracy,
    "objective_accuracy": objective_accuracy,
    "correlations": correlations,
    "training": training,
    "training_principles": training_principles,
    "label_agreement": label_agreement,
    "cross_accuracy": cross_accuracy,
    "ablation": ablation,
}
