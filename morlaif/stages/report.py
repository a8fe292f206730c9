"""Stage `report`: the page, the figures for papers, and every number on the page as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.report.settings import ReportSettings
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class ReportReads(Reads):
    config: Mapping[str, Any]  # what the page shows of it
    report: ReportSettings | None = None  # None: our sections


ReportJob = Job[ReportReads, dict[str, Path]]


class Report(Stage[ReportReads, dict[str, Path]]):
    name = "report"
    version = 4
    reads = ReportReads
    work = "morlaif.stages.work.report"


STAGE = Report()
