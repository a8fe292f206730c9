"""Stage `data`: prompts, demonstrations and human preferences, as Arrow datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from morlaif.data.settings import DataSettings
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class DataReads(Reads):
    data: DataSettings


DataJob = Job[DataReads, dict[str, Any]]


class Data(Stage[DataReads, dict[str, Any]]):
    name = "data"
    version = 1
    reads = DataReads
    work = "morlaif.stages.work.data"
    artifact = "dataset"


STAGE = Data()
