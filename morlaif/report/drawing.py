"""What the figures of a report are drawn with: sizes, dots with intervals, squares of a matrix, small multiples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from morlaif.evaluation.results import Estimate
from morlaif.report.data import words
from morlaif.report.style import PALETTE, as_matrix

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
    names_above(made, handles, [label for label, *_ in series])


def names_above(made: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """A legend above the axes, in as many columns as its longest label leaves room for."""
    room = 0.75 * made.get_figwidth() / (0.42 + 0.068 * max(map(len, labels)))
    made.legend(handles, labels, loc="outside upper left", ncols=max(1, min(len(labels), int(room + 0.5))))


def heatmap(
    names: Sequence[str], cell: Callable[[int, int], tuple[str, float] | None], diagonal: bool = False
) -> Figure:
    """A square for each two of `names`: what it says, and from −1 (orange) to 1 (blue) how it is coloured."""
    count = len(names)
    made, ((axes,),) = figure(min(WIDTH * 0.98, 1.2 + 0.42 * count))  # few names: few squares, not large ones
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


def multiples(titles: Sequence[str], columns: int = 3, **options: Any) -> tuple[Figure, Iterator[Axes]]:
    """A small panel for each title, its horizontal axis the steps of training."""
    rows = math.ceil(len(titles) / columns)
    made, axes = figure(0.5 + 1.02 * rows, rows, columns, sharex=True, **options)
    panels = list(axes.flat)
    for place, panel in enumerate(panels):
        panel.set_visible(place < len(titles))
        if place < len(titles):
            panel.set_title(titles[place], fontsize=8, loc="left", pad=3)
        panel.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=2))
        panel.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        panel.tick_params(labelcolor=PALETTE.muted, labelsize=7)
    made.supxlabel("step", fontsize=8.5, color=PALETTE.muted)
    return made, iter(panels[: len(titles)])
