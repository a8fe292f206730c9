"""Stage `contests`: have policies of finished runs judged against one another, prompt by prompt.

It reads finished runs, and is no part of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from morlaif.evaluation.settings import JudgeSettings
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage

OUTCOMES = "outcomes.json"  # of each of `ContestsReads.contests`, by prompt
Entrant = tuple[str, str]  # the unit "evaluate/<digest>" that has the responses, and its policy


@dataclass(frozen=True, kw_only=True)
class ContestsReads(Reads):
    contests: Sequence[tuple[Entrant, Entrant]]
    judge: JudgeSettings
    units: Mapping[str, str]  # of a run whose judge it is, as far as the judge reads them: name -> digest


ContestsJob = Job[ContestsReads, dict[str, Path]]


class Contests(Stage[ContestsReads, dict[str, Path]]):
    name = "contests"
    version = 1
    reads = ContestsReads
    work = "morlaif.stages.work.contests"


STAGE = Contests()
