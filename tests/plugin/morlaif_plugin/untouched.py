"""A method: no training at all, as a control."""

import json

from morlaif.models.load import point_to, source_of
from morlaif.stages.scoring import Method, MethodNeeds, MethodReads
from morlaif.units.job import Job


class Untouched(Method[MethodReads, MethodNeeds]):
    name = "untouched"
    version = 1
    reads = MethodReads

    def build(self, job: Job[MethodReads, MethodNeeds]) -> dict[str, float]:
        point_to(job.out, source_of(job.needs.sft))
        (job.out / "curve.jsonl").write_text(json.dumps({"step": 1, "reward": 0.0, "kl": 0.0}) + "\n")
        return {"kl": 0.0}
