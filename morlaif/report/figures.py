"""The figures of a report: functions from the data of a run to a matplotlib Figure, sized to be read on a phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from morlaif.naming import is_own
from morlaif.report import moving, training
from morlaif.report.analysis import measured
from morlaif.report.data import RunData
from morlaif.report.drawing import Series, dots, figure, heatmap, legend
from morlaif.report.style import PALETTE
from morlaif.report.tables import pm_accuracies, ranked, shared_models


def win_rates(run: RunData) -> Figure:
    rows = {run.comparison(key): rate for key, rate in run.results.win_rate.items()}
    if run.many:  # against SFT, best first; the table has all
        rows = {run.label(arm): rate for arm, rate in ranked(run)}
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
    matrix = shared_models(run)
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
    shown = [place for place, name in enumerate(found.labels) if not is_own(name)]

    def cell(i: int, j: int) -> tuple[str, float] | None:
        value = found.value[shown[i]][shown[j]]
        return None if value is None else (f"{100 * value:.0f}", 2 * value - 1)

    return heatmap([found.labels[place] for place in shown], cell, diagonal=True)


def ablation(run: RunData) -> Figure | None:
    """Accuracy of the objective against how many of its principles it has."""
    table = run.details.ablation
    if table is None:
        return None
    nested = [(row.count, measured(row.accuracy)) for row in table.nested]
    sampled = [(row.count, measured(row.accuracy)) for row in table.random]
    ceiling = [(row.count, measured(row.ceiling)) for row in table.random]
    whose = (table.scalarizer or run.label(run.policy)).replace("_", "-")
    lines = ((nested, f"{whose}, listed order", PALETTE.blue, "-"),
             (sampled, "random subsets", PALETTE.orange, (0, (4, 1.5))),
             (ceiling, "true principles", PALETTE.muted, (0, (1.5, 1.2))))  # fmt: skip
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


def changes(run: RunData) -> Figure | None:
    """What the policy gained and gave up, by principle: by the known truth where there is one, else by the PMs."""
    moved = run.details.true_change or run.details.score_change
    if not any(moved.values()):
        return None
    series: list[Series] = [
        (run.label(arm), moved[arm], PALETTE.of(index), index == 0) for index, arm in enumerate(run.drawn)
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
    "training": training.overview,
    "training_principles": training.principles,
    "training_updates": training.updates,
    "training_distributions": training.distributions,
    "training_weights": moving.figure,
    "training_reward": training.parts_of_reward,
    "training_cosines": training.advantage_cosines,
    "training_kept": training.kept_policies,
    "label_agreement": label_agreement,
    "cross_accuracy": cross_accuracy,
    "ablation": ablation,
}
