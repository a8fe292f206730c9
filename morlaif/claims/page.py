"""The page of claims: one HTML file without scripts, the table first, then each claim with its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from morlaif import pages
from morlaif.claims import table as tables
from morlaif.claims.decide import POWER
from morlaif.claims.settings import ClaimsSettings
from morlaif.claims.table import Part, Row

WIDTH, LINE, PAD = 560, 26, 10  # of a strip, in its own units
EDGE = 0.06  # of the range, left free on both sides


@dataclass(frozen=True)
class Strip:
    """What a claim's numbers look like on their own scale: an interval for each part, a tick for each seed."""

    height: int
    region: tuple[float, float]  # where the claim holds, left and right
    parts: list[dict[str, Any]]
    ends: tuple[str, str]  # of the scale
    at: float  # the value, or the middle of the margin, that it is about
    label: str


def page(table: Sequence[Row], settings: ClaimsSettings, command: str) -> str:
    report = resources.files("morlaif.report").joinpath("page.css").read_text(encoding="utf-8")
    own = resources.files("morlaif.claims").joinpath("claims.css").read_text(encoding="utf-8")
    templates = pages.environment("morlaif.claims")
    templates.globals |= {"interval": tables.interval, "needed": tables.needed, "strip": strip, "p": _p}
    return templates.get_template("claims.html.j2").render(
        css=report + own, table=table, summary=tables.summary(table), command=command, settings=settings, power=POWER,
        confidence=f"{100 * (1 - settings.alpha):g} %",
    )  # fmt: skip


def strip(row: Row) -> Strip | None:
    """None where nothing is known."""
    parts = [part for part in row.parts if part.mean is not None]
    if not parts:
        return None
    bounds = [row.at - row.margin, row.at + row.margin]
    values = [*bounds, *(value for part in parts for value in _of(part))]
    low, high = min(values), max(values)
    free = EDGE * (high - low or 1.0)
    low, high = low - free, high + free

    def x(value: float) -> float:
        return round(PAD + (WIDTH - 2 * PAD) * (value - low) / (high - low), 1)

    region = {
        "greater": (x(row.at), WIDTH - PAD),
        "less": (float(PAD), x(row.at)),
        "equivalent": (x(bounds[0]), x(bounds[1])),
    }[row.kind]
    drawn = [
        {
            "name": part.name,
            "y": PAD + LINE * place + LINE / 2,
            "dot": x(part.mean or 0.0),
            "bar": None if part.low is None or part.high is None else (x(part.low), x(part.high)),
            "seeds": [x(value) for value in part.values],
        }
        for place, part in enumerate(parts)
    ]
    return Strip(2 * PAD + LINE * len(parts), region, drawn, (f"{low:.3g}", f"{high:.3g}"), x(row.at), f"{row.at:g}")


def _of(part: Part) -> Iterator[float]:
    yield from part.values
    yield from (value for value in (part.low, part.high) if value is not None)


def _p(value: float | None) -> str:
    return "" if value is None else "< .001" if value < 0.001 else f"{value:.3f}"
