"""Preference models on bases of several sizes: what they are worth and what they cost, against the size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

from morlaif.evaluation.results import SFT, Estimate
from morlaif.report.comparison.charts import Chart, Line, Lines, LinesPanel
from morlaif.report.comparison.data import ComparedRun, ComparedRuns, mean_of
from morlaif.report.comparison.figures import CHANCE, PLAIN

Value = Callable[[ComparedRun], float | None]


def pm_size(data: ComparedRuns) -> list[Chart] | None:
    """None where the runs have their preference models on bases of one size, or nobody knows which."""
    by_size: dict[int, list[ComparedRun]] = {}
    for run in data.runs:
        if run.pm is not None:
            by_size.setdefault(int(run.pm["base_parameters"]), []).append(run)
    if len(by_size) < 2:
        return None
    sizes = sorted(by_size)

    def panel(title: str, value: Value, *, share: bool = False) -> LinesPanel | None:
        points, bounds = [], []
        for size in sizes:
            found = [Estimate(one, None, None, 1) for run in by_size[size] if (one := value(run)) is not None]
            mean = mean_of(found, data.confidence, share=share)
            if mean is not None and mean.value is not None:
                points.append((size / 1e6, mean.value))
                bounds.append((mean.low, mean.high))
        if len(points) < 2:
            return None
        line = Line("runs", [x for x, _ in points], [y for _, y in points], PLAIN, marked=True)
        known = [(low, high) for low, high in bounds if low is not None and high is not None]
        if len(known) == len(points):
            line = replace(line, low=[low for low, _ in known], high=[high for _, high in known])
        return LinesPanel(title, [line], CHANCE if share else None)

    worth = [
        panel("each principle’s accuracy", _accuracy, share=True),
        panel("win rate over SFT", _win_rate, share=True),
    ]
    cost = [
        panel("training, seconds", lambda run: None if run.pm is None else run.pm["seconds"]),
        panel("weights, MB", lambda run: None if run.pm is None else run.pm["bytes"] / 1e6),
    ]
    axis = "parameters of the base, millions"
    more = " Means over the runs of a size, with their interval where each size has several."
    charts: list[Chart] = []
    if shown := [one for one in worth if one]:
        charts.append(
            Lines(
                "pm_size_worth", "Preference models by the size of their base",
                "Held-out accuracy, the mean over all preference models of a run, and how often the policy that was "
                "trained on them wins over SFT." + more, shown, axis, "percent", columns=len(shown), integers=False,
            )
        )  # fmt: skip
    if shown := [one for one in cost if one]:
        charts.append(
            Lines(
                "pm_size_cost", "What they cost by the size of their base",
                "Seconds of building the preference models, one after another or beside others as the run had it; and "
                "the weights that scoring holds: the base once in float32, and each model’s own." + more,
                shown, axis, "number", columns=len(shown), integers=False,
            )
        )  # fmt: skip
    return charts


def _accuracy(run: ComparedRun) -> float | None:
    known = [one.value for one in run.results.pm_accuracy.values() if one.value is not None]
    return fmean(known) if known else None


def _win_rate(run: ComparedRun) -> float | None:
    rate = run.win_rate(run.policy, SFT)
    return None if rate is None else rate.value
