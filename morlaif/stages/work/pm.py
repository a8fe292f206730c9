"""Stage `pm`: one preference model, trained on the verdicts of one principle, or several of them in one pass.

Kinds whose network is shared are trained by stage `backbone`; here each principle gets its own view of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from morlaif.data.records import Pair, load_pairs
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict, load_verdicts
from morlaif.preference.pretrained import measure_pretrained
from morlaif.preference.report import PMReport, read_report
from morlaif.preference.settings import SHARED, PretrainedPM, TrainedPM, outside_base
from morlaif.preference.train import Corpus, Task, train_pms
from morlaif.stages.pm import PMJob
from morlaif.stages.work.places import base_of
from morlaif.units.job import Job

OTHER = {"train": "eval", "eval": "train"}
CHECKPOINTS = "training"  # inside `keep`, of the first of several jobs
VIEWS = "views"  # inside the artifact of `backbone`: a folder for each principle


def build(job: PMJob) -> dict[str, Any]:
    result = build_together([job])[job.name]
    if isinstance(result, Exception):
        raise result
    return result


def build_together(jobs: Sequence[PMJob]) -> dict[str, dict[str, Any] | Exception]:
    """Jobs that differ in their principle alone: the headline numbers of each, or why it could not be trained."""
    settings = jobs[0].reads.pm
    if isinstance(settings, PretrainedPM):
        return {job.name: headline(_measure(job)) for job in jobs}
    if settings.kind in SHARED:
        return {job.name: headline(_view(job)) for job in jobs}
    by_name = {_principle(job): job for job in jobs}
    tasks = [task(job, name, job.reads.principle, job.out) for name, job in by_name.items()]
    ends = train_pms(
        tasks, corpus(jobs[0]), settings, seed=jobs[0].seed,
        on_step=lambda step, steps, losses: [
            by_name[name].progress(step, steps, loss=loss) for name, loss in losses.items()
        ],
        keep=jobs[0].keep / CHECKPOINTS,
    )  # fmt: skip
    return {by_name[name].name: headline(end) for name, end in ends.items()}


def corpus(job: Job[Any, Any]) -> Corpus:
    """What all preference models of a run are trained on."""
    settings: TrainedPM = job.reads.pm
    pairs, held = (load_pairs(job.needs.respond, split) for split in _splits(job))
    other = outside_base(settings)
    return Corpus(pairs, held, other or base_of(job), None, other is None, job.device, job.dtype)


def task(job: Job[Any, Any], name: str, principle: Any, out: Any) -> Task:
    """One principle's verdicts and words. `principle` is None where no single one is judged by."""
    verdicts, held = _verdicts(job, name)
    question, description = (principle.question, principle.description) if principle else (None, None)
    return Task(name, verdicts, held, out, question, description)


def headline(report: PMReport | UserError) -> dict[str, Any] | UserError:
    if isinstance(report, UserError):
        return report
    cut = report.cut.values()
    return {
        "accuracy": report.accuracy["value"],
        "length_baseline": report.length_baseline["value"],
        "brier": report.brier,
        "train_loss": report.train_loss,
        **({"cut_pairs": sum(part["pairs"] for part in cut)} if any(part["pairs"] for part in cut) else {}),
    }


def _view(job: PMJob) -> PMReport:
    """The principle's own folder, by hard links where the file system allows: the network is stored once."""
    backbone = job.needs.backbone
    assert backbone is not None  # the plan gives kinds whose network is shared theirs
    principle = _principle(job)

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(backbone / VIEWS / principle, job.out, copy_function=link, dirs_exist_ok=True)
    return read_report(principle, job.out)


def _measure(job: PMJob) -> PMReport:
    settings: PretrainedPM = job.reads.pm
    principle = job.reads.principle
    pairs: list[list[Pair]] = [load_pairs(job.needs.respond, split) for split in _splits(job)]
    return measure_pretrained(
        _principle(job), settings, *pairs, *_verdicts(job, _principle(job)), job.out,
        text=principle and f"{principle.question} {principle.description}", device=job.device, dtype=job.dtype,
    )  # fmt: skip


def _verdicts(job: Job[Any, Any], name: str) -> tuple[list[Verdict], list[Verdict]]:
    learnt, held = (load_verdicts(job.needs.feedback[name], split) for split in _splits(job))
    return learnt, held


def _splits(job: Job[Any, Any]) -> tuple[str, str]:
    """The split that is learnt from, and the one that is held out; the gold judge learns from the other side."""
    split = job.reads.split
    return split, OTHER[split]


def _principle(job: PMJob) -> str:
    return job.name.removeprefix("pm/")
