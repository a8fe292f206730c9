"""Stage `pm`: one preference model, trained on the verdicts of one principle, or several of them in one pass.

Kinds whose network is shared are trained by stage `backbone`; here each principle gets its own view of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from morlaif import ranks
from morlaif.data.records import load_pairs
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict, load_verdicts
from morlaif.memory.dimensions import of_path
from morlaif.memory.machine import Machine
from morlaif.naming import labelled_by
from morlaif.preference.kinds import kind_of
from morlaif.preference.report import PMReport, read_report
from morlaif.preference.settings import AdapterEach, PMSettings
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms
from morlaif.stages.pm import PMJob, batch_of, joint_at_once
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
    settings = fitted(jobs[0], len(jobs))
    if kind_of(settings).shared:
        return {job.name: headline(_view(job)) for job in jobs}
    by_name = {_principle(job): job for job in jobs}
    tasks = [task(job, name, job.reads.principle, job.out) for name, job in by_name.items()]

    def tell(step: int, steps: int, losses: dict[str, float]) -> None:
        for name, loss in losses.items():
            by_name[name].progress(step, steps, loss=loss)

    ends = train_pms(
        tasks, corpus(jobs[0]), settings, seed=jobs[0].seed,
        on_step=tell, keep=jobs[0].keep / CHECKPOINTS,
    )  # fmt: skip
    return {by_name[name].name: headline(end) for name, end in ends.items()}


def fitted(job: Job[Any, Any], models: int) -> PMSettings:
    """The settings, with as many models in one forward as the machine's memory takes, where that is left to us."""
    settings: PMSettings = job.reads.pm
    kind = kind_of(settings)
    if not isinstance(settings, AdapterEach) or settings.joint_tokens is not None or kind.footprint is None:
        return settings
    source = base_of(job) if kind.on_policy else kind.base
    base = None if source is None else of_path(source.path, source.revision)
    tokens = 2 * batch_of(settings, ranks.count()).micro * settings.max_length
    if base is None:
        return settings.model_copy(update={"joint_tokens": tokens})  # one at a time
    machine = Machine(job.hardware, base, base, kind.footprint, models, kind.on_policy)
    together = joint_at_once(settings, machine, models * kind.footprint.members)
    return settings.model_copy(update={"joint_tokens": together * tokens})


def corpus(job: Job[Any, Any]) -> Corpus:
    """What all preference models of a run are trained on."""
    kind = kind_of(job.reads.pm)
    pairs, held = (load_pairs(job.needs.respond, split) for split in _splits(job))
    base = base_of(job) if kind.on_policy else kind.base
    return Corpus(pairs, held, base, None, kind.on_policy, job.device, job.dtype)


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

    shutil.copytree(backbone / VIEWS / labelled_by(principle), job.out, copy_function=link, dirs_exist_ok=True)
    return read_report(principle, job.out)


def _verdicts(job: Job[Any, Any], name: str) -> tuple[Sequence[Verdict], Sequence[Verdict]]:
    learnt, held = (load_verdicts(job.needs.feedback[labelled_by(name)], split) for split in _splits(job))
    return learnt, held


def _splits(job: Job[Any, Any]) -> tuple[str, str]:
    """The split that is learnt from, and the one that is held out; the gold judge learns from the other side."""
    split = job.reads.split
    return split, OTHER[split]


def _principle(job: PMJob) -> str:
    return job.name.removeprefix("pm/")
