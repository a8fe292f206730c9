"""Settings of a run's page; `conf/report/*.yaml` holds every default."""

from __future__ import annotations

from typing import ClassVar

from morlaif.settings import Names, Settings

OURS = ("results", "models", "tradeoffs", "training", "samples", "labels", "config")


class ReportSettings(Settings):
    neutral: ClassVar = {"sections": (list(OURS),)}

    sections: Names  # of the page, in their order: ours by name, your own by dotted path
