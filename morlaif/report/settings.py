"""Settings of a run's page; `conf/report/*.yaml` holds every default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from morlaif.registry import Registry, of_others
from morlaif.settings import Names, Settings

OURS = ("results", "models", "tradeoffs", "fronts", "best_of_n", "training", "samples", "labels", "config")
HOME = "morlaif.report.sections"
# functions from the data of a run, a `RunData`, to a `Section` of its page or None
SECTIONS: Registry[Callable[[Any], Any]] = Registry(
    "section", "report.sections", HOME, {name: f"{HOME}.{name}" for name in OURS}
)


class ReportSettings(Settings):
    reads_outside: ClassVar = {"sections": "function"}

    sections: Names  # of the page, in their order


def chosen(settings: ReportSettings) -> ReportSettings | None:
    """The settings, None where they are the page as it is without them: then no digest has them.

    Raises:
        UserError: a section that nobody has. Code of others is imported to see.
    """
    for name in settings.sections:
        if of_others(SECTIONS.path(name)):
            SECTIONS.find(name)
    return None if tuple(settings.sections) == OURS else settings
