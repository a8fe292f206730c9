"""Stage `backbone`: the network that preference models of the kinds `heads` and `conditioned` share.

It is trained on all principles' verdicts in one pass over the pairs. Each verdict moves the shared weights, so a
thirteenth principle makes another network: it is trained anew, with all its views. Kinds `lora`, `trunk`, `ensemble`
and `full` train only what is new.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from morlaif.errors import UserError
from morlaif.preference.report import PMReport
from morlaif.preference.train import train_pms
from morlaif.stages.backbone import BackboneJob
from morlaif.stages.work.pm import CHECKPOINTS, VIEWS, corpus, task


def build(job: BackboneJob) -> dict[str, Any]:
    tasks = []
    for name, principle in job.reads.principles.items():
        out = job.out / VIEWS / name
        out.mkdir(parents=True, exist_ok=True)  # each rank does so
        tasks.append(task(job, name, principle, out))
    ends = train_pms(
        tasks, corpus(job), job.reads.pm, seed=job.seed,
        on_step=lambda step, steps, losses: job.progress(step, steps, loss=float(np.mean(list(losses.values())))),
        keep=job.keep / CHECKPOINTS,
    )  # fmt: skip
    reports: list[PMReport] = []
    for end in ends.values():
        if isinstance(end, UserError):
            raise end
        reports.append(end)
    known = [report.accuracy["value"] for report in reports if report.accuracy["value"] is not None]
    losses = [report.train_loss for report in reports if report.train_loss is not None]
    return {
        "accuracy": float(np.mean(known)) if known else None,
        "train_loss": float(np.mean(losses)),
        "principles": len(tasks),
    }
