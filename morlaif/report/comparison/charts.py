"""What a figure says, apart from how it is drawn: `print.py` draws it for paper, `page.js` on the page.

Every chart can be written as JSON and as a table: the data one click behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from morlaif.evaluation.results import Estimate

Cell = str | float | int | None
Format = Literal["percent", "number"]


@dataclass(frozen=True)
class Point:
    """An estimate and its interval; `low` and `high` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, found: Estimate | None) -> Point | None:
        return None if found is None or found.value is None else cls(found.value, found.low, found.high, found.n)


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point | None]  # one for each row
    colour: int
    hollow: bool = False


@dataclass(frozen=True)
class Reference:
    """Published values beside ours: for each row None, or from lowest to highest."""

    name: str
    spans: Sequence[tuple[float, float] | None]


@dataclass(frozen=True)
class Chart:
    """What all charts have."""

    kind: ClassVar[str]
    name: str  # of the files
    title: str
    caption: str

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return False

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        """Heads and rows of its data."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Dots(Chart):
    """A dot with its interval for each row and series."""

    kind: ClassVar[str] = "dots"
    rows: Sequence[str]
    series: Sequence[Series]
    axis: str
    format: Format
    mark: float | None = None  # a dashed line: chance, or no change
    bounds: tuple[float | None, float | None] = (None, None)
    references: Sequence[Reference] = ()

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        heads = ["row", "series", "value", "low", "high", "n"]
        rows: list[list[Cell]] = []
        for k, row in enumerate(self.rows):
            for series in self.series:
                if p := series.points[k]:
                    rows.append([row, series.name, p.value, p.low, p.high, p.n])
            for reference in self.references:
                if span := reference.spans[k]:
                    middle = span[0] if span[0] == span[1] else None
                    rows.append([row, reference.name, middle, *span, None])
        return heads, rows


@dataclass(frozen=True)
class Shares:
    label: str
    win: float
    tie: float
    loss: float
    n: int | None
    published: bool = False


@dataclass(frozen=True)
class Bars(Chart):
    """Wins, ties and losses that add up to one, a bar for each comparison."""

    kind: ClassVar[str] = "bars"
    rows: Sequence[Shares]

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        heads = ["comparison", "win", "tie", "loss", "n"]
        return heads, [[row.label, row.win, row.tie, row.loss, row.n] for row in self.rows]


@dataclass(frozen=True)
class Heatmap(Chart):
    """A coloured square for each row and column; blue above `centre`, orange below."""

    kind: ClassVar[str] = "heatmap"
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Point | None]]
    centre: float
    span: float  # so far from the centre the colour is full
    format: Format

    @property
    def wide(self) -> bool:
        return len(self.columns) > 9

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        heads = ["row", "column", "value", "low", "high", "n"]
        rows: list[list[Cell]] = []
        for name, cells in zip(self.rows, self.cells, strict=True):
            for column, p in zip(self.columns, cells, strict=True):
                if p:
                    rows.append([name, column, p.value, p.low, p.high, p.n])
        return heads, rows


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    published: bool = False
    marked: bool = False  # a dot at every value: few, measured apart


@dataclass(frozen=True)
class LinesPanel:
    title: str
    lines: Sequence[Line]
    mark: float | None = None


@dataclass(frozen=True)
class Lines(Chart):
    """Curves in one panel or in many small ones."""

    kind: ClassVar[str] = "lines"
    panels: Sequence[LinesPanel]
    x_axis: str
    format: Format
    columns: int = 1
    same_scale: bool = False  # of y, in all panels
    integers: bool = True  # on the x axis

    @property
    def wide(self) -> bool:
        return self.columns > 1

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        heads, rows = ["panel", "line", self.x_axis, "value", "low", "high"], []
        for panel in self.panels:
            for line in panel.lines:
                for k, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
                    bounds = [None if side is None else side[k] for side in (line.low, line.high)]
                    rows.append([panel.title, line.name, x, y, *bounds])
        return heads, rows


@dataclass(frozen=True)
class Spot:
    name: str
    values: Sequence[float]  # one for each axis
    colour: int


@dataclass(frozen=True)
class Scatter(Chart):
    """Policies by two of several axes; on the page the reader chooses which. More is better on each."""

    kind: ClassVar[str] = "scatter"
    axes: Sequence[str]
    spots: Sequence[Spot]
    shown: tuple[int, int]  # the axes to begin with, and in print
    note: str = field(default="")

    def table(self) -> tuple[list[str], list[list[Cell]]]:
        return ["policy", *self.axes], [[spot.name, *spot.values] for spot in self.spots]


def front(xs: Sequence[float], ys: Sequence[float]) -> list[int]:
    """Which points no other beats on one axis without losing on the other, from left to right."""
    best, kept = float("-inf"), []
    for k in sorted(range(len(xs)), key=lambda k: (-xs[k], -ys[k])):
        if ys[k] > best:
            best = ys[k]
            kept.append(k)
    return kept[::-1]
