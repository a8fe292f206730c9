"""Fronts of several runs: what each way covers over seeds, by itself and beside direct training of the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from morlaif.evaluation.fronts import DIRECT, WayFront
from morlaif.evaluation.results import Estimate
from morlaif.report.comparison.charts import Chart, Dots, Line, Lines, LinesPanel, Point, Series
from morlaif.report.comparison.data import ComparedRun, ComparedRuns, mean_of
from morlaif.report.comparison.figures import PLAIN
from morlaif.report.comparison.labels import is_seed
from morlaif.report.data import words
from morlaif.report.fronts import NAMES


@dataclass(frozen=True)
class WayOverSeeds:
    """One way under one setting, a front for each seed."""

    label: str
    way: str
    runs: tuple[ComparedRun, ...]

    @property
    def fronts(self) -> list[WayFront]:
        return [run.fronts[self.way] for run in self.runs]

    def relative(self) -> list[Estimate]:
        """Hypervolume over that of direct training of the same seed."""
        found = []
        for run in self.runs:
            own, direct = run.fronts[self.way].hypervolume.value, run.fronts.get(DIRECT)
            base = direct.hypervolume.value if direct is not None else None
            if own is not None and base:
                found.append(Estimate(own / base, None, None, 1))
        return found


def ways(data: ComparedRuns) -> list[WayOverSeeds]:
    """In the order of the runs. Runs that share a front count once."""
    keys = [key for key in data.labels.keys if not is_seed(key)]
    groups: dict[tuple[str, ...], list[ComparedRun]] = {}
    for run in data.runs:
        if run.fronts:
            groups.setdefault(tuple(data.labels.row(run.config)[key] for key in keys), []).append(run)
    seeds = [key for key in data.labels.keys if is_seed(key)]
    peers = [[run.config for run in own] for own in groups.values()]
    made = []
    for runs, configs in zip(groups.values(), peers, strict=True):
        setting = data.labels.distinguish(configs, *peers, but=seeds)
        for way in dict.fromkeys(way for run in runs for way in run.fronts):
            own = {run.units[f"front/{way}"]: run for run in runs if way in run.fronts}
            label = NAMES.get(way, way)
            made.append(WayOverSeeds(f"{setting} · {label}" if setting else label, way, tuple(own.values())))
    return made


def hypervolumes(data: ComparedRuns) -> Chart | None:
    rows = ways(data)
    if not rows:
        return None
    points = [Point.of(mean_of([one.hypervolume for one in row.fronts], data.confidence)) for row in rows]
    return Dots(
        "front_hypervolume", "Hypervolume of each way",
        f"Of the mean answers at all points of the grid, above a reference of {rows[0].fronts[0].reference:g} "
        f"deviations of SFT’s answers in each objective. {_covered(rows)}",
        [row.label for row in rows], [Series("hypervolume", points, PLAIN)], "hypervolume", "number",
    )  # fmt: skip


def relative(data: ComparedRuns) -> Chart | None:
    """Every way but direct training, seed by seed."""
    rows = [row for row in ways(data) if row.way != DIRECT and row.relative()]
    if not rows:
        return None
    points = [Point.of(mean_of(row.relative(), data.confidence)) for row in rows]
    costs = {row.label: _cost(row) for row in rows}
    spent = "; ".join(f"{label} {cost:.0%}" for label, cost in costs.items() if cost is not None)
    return Dots(
        "front_relative", "Hypervolume beside direct training",
        f"Over that of a policy trained at each point, of the same seed. Responses learnt from, likewise: {spent}. "
        f"{_covered(rows)}",
        [row.label for row in rows], [Series("relative", points, PLAIN)], "of direct training’s", "percent", 1.0,
    )  # fmt: skip


def mean_fronts(data: ComparedRuns) -> Chart | None:
    """Of two objectives: where each point lies in the mean over seeds."""
    rows = [row for row in ways(data) if len(row.fronts[0].objectives) == 2]
    if not rows:
        return None
    lines = []
    for colour, row in enumerate(rows):
        places = np.mean([one.places for one in row.fronts if len(one.points) == len(row.fronts[0].points)], axis=0)
        lines.append(Line(row.label, places[:, 0].tolist(), places[:, 1].tolist(), colour, marked=True))
    first, second = map(words, rows[0].fronts[0].objectives)
    return Lines(
        "front_points", "What each choice of weights reaches",
        "Change against SFT in deviations of SFT’s answers, means over seeds; a marker for each point of the grid.",
        [LinesPanel(f"{second}, deviations over SFT", lines)], f"{first}, deviations over SFT", "number",
        integers=False,
    )  # fmt: skip


def _covered(rows: Sequence[WayOverSeeds]) -> str:
    seeds = max(len(row.runs) for row in rows)
    return f"Lines: Student’s t over {seeds} seeds." if seeds > 1 else "Lines: over prompts alone, of one seed."


def _cost(row: WayOverSeeds) -> float | None:
    """Responses that its policies learnt from, as a share of direct training's."""
    for run in row.runs:
        own, direct = run.fronts[row.way].cost.episodes, run.fronts.get(DIRECT)
        if own is not None and direct is not None and direct.cost.episodes:
            return own / direct.cost.episodes
    return None
