"""Stage `compare`: judge the policies of finished runs against one another, and show the runs on one page.

It reads finished runs, and is no part of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.evaluation.settings import JudgeSettings
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The judge of one run, as far as it can judge others."""

    judge: JudgeSettings | None
    why_not: str  # where it cannot


@dataclass(frozen=True, kw_only=True)
class CompareReads(Reads):
    runs: Sequence[Mapping[str, Any]]  # name, config, units, human
    judges: Sequence[Asked]  # by run
    prompts: int | None  # most; None: all that both answered
    confidence: float
    resamples: int


CompareJob = Job[CompareReads, dict[str, Path]]


class Compare(Stage[CompareReads, dict[str, Path]]):
    name = "compare"
    version = 5
    reads = CompareReads
    work = "morlaif.stages.work.compare"


STAGE = Compare()
