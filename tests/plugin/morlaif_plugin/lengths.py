"""A stage: how many words each policy's responses have."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage


@dataclass(frozen=True, kw_only=True)
class LengthsReads(Reads):
    digits: int = 1


@dataclass(frozen=True)
class LengthsNeeds:
    evaluate: Path


class Lengths(Stage[LengthsReads, LengthsNeeds]):
    name = "lengths"
    version = 1
    reads = LengthsReads
    needs = LengthsNeeds

    def build(self, job: Job[LengthsReads, LengthsNeeds]) -> dict[str, float]:
        rows = [json.loads(line) for line in (job.needs.evaluate / "responses.jsonl").read_text().splitlines()]
        words = {
            policy: round(mean(len(row["responses"][policy]["text"].split()) for row in rows), job.reads.digits)
            for policy in rows[0]["responses"]
        }
        (job.out / "lengths.json").write_text(json.dumps(words))
        return words
