"""A section of a report: a function from the data of a run to what is shown, found by name or by dotted path.

`tests/plugin/morlaif_plugin/brevity.py` is one from outside; `sections.py` has ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from morlaif.errors import UserError
from morlaif.report.data import RunData
from morlaif.report.settings import SECTIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure, on the page and as `figures/<name>.png`."""

    name: str
    draw: Callable[[RunData], Figure | None]  # None: the run has nothing of the kind
    spoken: str  # what a screen reader says in its place


@dataclass(frozen=True)
class Table:
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]  # texts; all is escaped


@dataclass(frozen=True)
class Panel:
    """A box: a title, the drawing of that name if any, a sentence, and a table if any."""

    title: str
    note: str = ""
    table: Table | None = None
    figure: str | None = None


@dataclass(frozen=True)
class Section:
    name: str  # letters, digits, - and _: its address on the page
    title: str
    panels: Sequence[Panel] = ()
    drawings: Sequence[Drawing] = ()
    link: str = ""  # in the page's navigation; "": the title
    template: str = "section_panels.html.j2"
    context: Mapping[str, Any] = field(default_factory=dict)  # the template's variables


def make_sections(names: Sequence[str], run: RunData) -> list[Section]:
    """The sections `names` of the page, those that have anything to show.

    Raises:
        UserError: there is none of that name, or it made something else than a section.
    """
    made: dict[str, Section] = {}
    for name in names:
        section = SECTIONS.find(name)(run)
        if section is None:
            continue
        if not isinstance(section, Section):
            kind = type(section).__name__
            raise UserError(f"report.sections: '{name}' returned an object of type {kind}; a Section or None is right")
        if not re.fullmatch(r"[A-Za-z][\w-]*", section.name):
            raise UserError(f"report.sections: '{name}' names its section '{section.name}': letters, digits, - and _")
        if section.name in {*made, "run", "people"}:
            raise UserError(f"report.sections: '{name}' names its section '{section.name}', as another of the page")
        made[section.name] = section
    return list(made.values())
