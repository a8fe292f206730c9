"""Charts on paper: each kind drawn with matplotlib, sized for a column of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from morlaif.report.comparison.charts import Bars, Chart, Dots, Heatmap, Line, Lines, LinesPanel, Scatter, front
from morlaif.report.style import PALETTE, SERIES, as_matrix

WIDTH = 6.0  # inches
DASHED = (0, (3, 3))
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # for more lines than colours
MARKERS = "osD^vP"


def draw(chart: Chart) -> Figure:
    return _KINDS[type(chart)](chart)


def look(index: int) -> dict[str, Any]:
    """Colour and, beyond the colours there are, dash and marker of a series."""
    turn = index // len(SERIES)
    return {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[turn % len(DASHES)]}


def _dots(chart: Dots) -> Figure:
    count, several = len(chart.rows), len(chart.series)
    made = Figure(figsize=(WIDTH, 0.9 + count * max(0.24, 0.1 + 0.11 * several)), layout="constrained")
    axes = made.subplots()
    offsets = np.linspace(0.28, -0.28, several) if several > 1 else [0.0]
    ys = np.arange(count)[::-1]
    for reference, shade in zip(chart.references, (0.32, 0.2), strict=False):
        for y, span in zip(ys, reference.spans, strict=True):
            if span:
                _span(axes, y, *span, shade)
    for offset, series in zip(offsets, chart.series, strict=True):
        colour = SERIES[series.colour % len(SERIES)]
        marker = MARKERS[series.colour // len(SERIES) % len(MARKERS)]
        for y, p in zip(ys + offset, series.points, strict=True):
            if p is None:
                continue
            if p.low is not None and p.high is not None:
                axes.plot([p.low, p.high], [y, y], color=colour, linewidth=1.5, zorder=2)
            face = PALETTE.surface if series.hollow else colour
            axes.plot(p.value, y, marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=3, clip_on=False)
    if chart.mark is not None:
        axes.axvline(chart.mark, color=PALETTE.muted, linewidth=0.9, linestyle=DASHED, zorder=1)
    axes.set_yticks(ys, chart.rows)
    axes.set_ylim(-0.6, count - 0.4)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    low, high = chart.bounds
    axes.set_xlim(low, None if high is None else high + 0.005)
    _format(axes.xaxis, chart.format)
    axes.set_xlabel(chart.axis)
    handles: list[Artist] = [
        Line2D([], [], color=SERIES[s.colour % len(SERIES)], marker=MARKERS[s.colour // len(SERIES) % len(MARKERS)],
               markersize=4.5, markerfacecolor=PALETTE.surface if s.hollow else None, label=s.name)
        for s in chart.series
    ]  # fmt: skip
    handles += [
        Patch(color=PALETTE.muted, alpha=shade, linewidth=0, label=r.name)
        for r, shade in zip(chart.references, (0.32, 0.2), strict=False)
    ]
    _legend(made, handles, alone=len(handles) < 2)
    return made


def _span(axes: Axes, y: float, low: float, high: float, shade: float) -> None:
    if low == high:
        axes.plot([low, low], [y - 0.36, y + 0.36], color=PALETTE.muted, linewidth=2.2, alpha=0.75, zorder=1)
    else:
        axes.add_patch(Rectangle((low, y - 0.36), high - low, 0.72, color=PALETTE.muted, alpha=shade, linewidth=0))


def _bars(chart: Bars) -> Figure:
    made = Figure(figsize=(WIDTH, 0.9 + 0.4 * len(chart.rows)), layout="constrained")
    axes = made.subplots()
    ys = np.arange(len(chart.rows))[::-1]
    colours = {"win": PALETTE.blue, "tie": PALETTE.grid, "loss": PALETTE.orange}
    for y, row in zip(ys, chart.rows, strict=True):
        left = 0.0
        for part, colour in colours.items():
            share = getattr(row, part)
            axes.barh(y, share, left=left, height=0.62, color=colour, alpha=0.55 if row.published else 1.0)
            if share > 0.06:
                ink = PALETTE.ink if part == "tie" or row.published else PALETTE.surface
                axes.text(
                    left + share / 2, y, f"{100 * share:.0f} %", color=ink, ha="center", va="center", fontsize=7.5
                )
            left += share
    axes.set_yticks(ys, [row.label + (f"\n(n = {row.n})" if row.n else "") for row in chart.rows])
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    _format(axes.xaxis, "percent")
    _legend(made, [Patch(color=colour, label=part) for part, colour in colours.items()])
    return made


def _heatmap(chart: Heatmap) -> Figure:
    rows, columns = len(chart.rows), len(chart.columns)
    small = columns > 8
    longest = max(len(name) for name in chart.rows)
    cell = min(0.5, (WIDTH - 0.075 * longest) / columns)
    made = Figure(figsize=(WIDTH, 0.5 + cell * rows + 0.055 * max(map(len, chart.columns))), layout="constrained")
    axes = made.subplots()
    for i, row in enumerate(chart.cells):
        for j, p in enumerate(row):
            if p is None:
                continue
            away = p.value - chart.centre
            alpha = 0.06 + 0.64 * min(1, abs(away) / chart.span)
            colour = PALETTE.blue if away > 0 else PALETTE.orange
            axes.add_patch(Rectangle((j, i), 0.95, 0.95, facecolor=colour, alpha=alpha, linewidth=0))
            axes.text(j + 0.475, i + 0.5, cell_text(p.value, chart.format), ha="center", va="center",
                      fontsize=6.6 if small else 8)  # fmt: skip
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks(np.arange(columns) + 0.475, chart.columns, rotation=45, ha="left", rotation_mode="anchor",
                    color=PALETTE.ink)  # fmt: skip
    axes.set_yticks(np.arange(rows) + 0.475, chart.rows)
    as_matrix(axes)
    return made


def cell_text(value: float, form: str) -> str:
    return f"{100 * value:.0f}" if form == "percent" else f"{value:.2f}".replace("-", "−").replace("0.", ".", 1)


def _lines(chart: Lines) -> Figure:
    rows = math.ceil(len(chart.panels) / chart.columns)
    height = 1.25 if rows > 1 and chart.columns > 1 else 1.8
    made = Figure(figsize=(WIDTH, 0.7 + height * rows), layout="constrained")
    grid = made.subplots(rows, chart.columns, squeeze=False, sharex=True, sharey=chart.same_scale)
    for place, axes in enumerate(grid.flat):
        if place >= len(chart.panels):
            axes.set_visible(False)
            continue
        _panel(axes, chart.panels[place], chart)
    made.supxlabel(chart.x_axis, fontsize=8.5, color=PALETTE.muted)
    lines = list({line.name: line for panel in chart.panels for line in panel.lines if not line.published}.values())
    handles = [Line2D([], [], **look(line.colour), marker="o" if line.marked else None, markersize=4, label=line.name)
               for line in lines]  # fmt: skip
    if any(line.published for panel in chart.panels for line in panel.lines):
        handles.append(Line2D([], [], color=PALETTE.muted, linestyle=DASHED, label="paper"))
    _legend(made, handles)
    return made


def _panel(axes: Axes, panel: LinesPanel, chart: Lines) -> None:
    if panel.mark is not None:
        axes.axhline(panel.mark, color=PALETTE.muted, linewidth=0.8, linestyle=DASHED)
    for line in panel.lines:
        _line(axes, line)
    axes.set_title(panel.title, fontsize=8, loc="left", pad=3)
    axes.xaxis.set_major_locator(MaxNLocator(6 if chart.columns == 1 else 3, integer=chart.integers, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.tick_params(axis="y", labelcolor=PALETTE.muted, labelsize=7.5)
    _format(axes.yaxis, chart.format)


def _line(axes: Axes, line: Line) -> None:
    if line.published:
        axes.plot(line.x, line.y, color=PALETTE.muted, linestyle=DASHED, linewidth=1.1, zorder=1)
        axes.annotate(line.name.removeprefix("paper, "), (line.x[-1], line.y[-1]), xytext=(0, 3), ha="right",
                      textcoords="offset points", fontsize=6.5, color=PALETTE.muted)  # fmt: skip
        return
    style = look(line.colour)
    axes.plot(line.x, line.y, **style, linewidth=1.3, marker="o" if line.marked else None, markersize=3.5)
    if line.marked and line.low is not None and line.high is not None:
        axes.vlines(line.x, line.low, line.high, color=style["color"], linewidth=1.1, alpha=0.7)
    elif line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=style["color"], alpha=0.13, linewidth=0)


def _scatter(chart: Scatter) -> Figure:
    made = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = made.subplots()
    a, b = chart.shown
    xs, ys = ([spot.values[k] for spot in chart.spots] for k in (a, b))
    best = front(xs, ys)
    axes.plot([xs[k] for k in best], [ys[k] for k in best], color=PALETTE.muted, linewidth=0.9, linestyle=DASHED)
    for x, y, spot in zip(xs, ys, chart.spots, strict=True):
        marker = MARKERS[spot.colour // len(SERIES) % len(MARKERS)]
        axes.plot(x, y, marker, color=SERIES[spot.colour % len(SERIES)], markersize=6, label=spot.name)
    axes.margins(0.1)
    axes.set_xlabel(f"{chart.axes[a]}, change against SFT")
    axes.set_ylabel(f"{chart.axes[b]}, change against SFT")
    _legend(made, axes.get_legend_handles_labels()[0])
    return made


def _format(axis: Any, form: str) -> None:
    if form == "percent":
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _legend(made: Figure, handles: Sequence[Any], alone: bool = False) -> None:
    if handles and not alone:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, min(len(handles), int(82 / (longest + 8))))
        made.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=7.5)


_KINDS: Mapping[type, Callable[[Any], Figure]] = {
    Dots: _dots, Bars: _bars, Heatmap: _heatmap, Lines: _lines, Scatter: _scatter,
}  # fmt: skip
