"""Stage `feedback`: a verdict for each pair under one principle, or (the single-model baseline) a constitution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.chunks import PairChunks, with_people, write_verdicts
from morlaif.feedback.information import Information, Watch, all_alike, information
from morlaif.feedback.judge import Judge, open_judge
from morlaif.feedback.label import Assign, draw, label_all, label_chunks
from morlaif.feedback.outcomes import advice
from morlaif.feedback.quality import LabelTally, audit_of, halo
from morlaif.feedback.records import Comparison
from morlaif.feedback.settings import OpenAISettings, Principle
from morlaif.stages.feedback import FeedbackJob
from morlaif.stages.work.places import judge_of

SPLITS = ("train", "eval")


def build(job: FeedbackJob) -> dict[str, Any]:
    pairs = {split: PairChunks.open(job.needs.respond, split) for split in SPLITS}
    every = PairChunks.chain(list(pairs.values()))
    assign = _assignment(job)
    settings, together = judge_of(job, job.reads.feedback), job.reads.together or ()
    judge = open_judge(settings, ledger=job.ledger, seed=job.seed, together=together)
    watch = Watch(judge, getattr(settings, "stop_if", None), job.name)
    tallies = {split: LabelTally() for split in SPLITS}

    company = together or (job.reads.company.principles if job.reads.company else ())
    if company:
        label_all(judge, every, company, job.ledger.with_name("labelling.lock"), job.progress, watch)
    parts = label_chunks(judge, every, assign, job.progress, watch)
    if job.reads.people:
        parts = (with_people(part, chunk.human) for part, chunk in zip(parts, every.chunks(), strict=True))
    write_verdicts(job.out, {split: tallies[split].passing(pairs[split], parts) for split in SPLITS})
    counts = judge.finish()
    _check(job, judge, tallies)
    found = _information(judge, list(tallies.values()))
    watch.judged(found)
    measured = {split: tallies[split].measure(_truth(judge, assign, pairs[split])) for split in SPLITS}
    report: dict[str, Any] = {**measured, "judge": judge.name, "usage": asdict(judge.usage)}
    report["information"] = found.as_dict()
    if together and (alike := all_alike(_labels(judge, together, every))):
        report["information"]["warnings"].append(alike)
        watch.tell([alike])
    joint = settings if together and isinstance(settings, OpenAISettings) else None
    if joint is not None and (audited := audit_of(every, joint.joint.audit_fraction)):
        report["halo"] = _halo(job, joint, judge, audited, together)
    (job.out / "quality.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _headline(measured, judge) | counts


def _halo(
    job: FeedbackJob, joint: OpenAISettings, judge: Judge, audited: PairChunks, together: Sequence[Principle]
) -> dict[str, Any]:
    """Some pairs are asked one principle at a time as well: how far do the joint labels stray?"""
    settings = joint.model_copy(update={"mode": "logprob"})
    apart = open_judge(settings, ledger=job.ledger, seed=job.seed)
    label_all(apart, audited, together, job.ledger.with_name("labelling.lock"), job.progress)
    labels = [
        {p.name: np.concatenate([part.p_first for part in label_chunks(one, audited, _always(p))]) for p in together}
        for one in (judge, apart)
    ]
    return halo(*labels) | {"usd": apart.usage.usd, "requests": apart.usage.requests}


def _check(job: FeedbackJob, judge: Judge, tallies: Mapping[str, LabelTally]) -> None:
    if not any(tally.column("valid").any() for tally in tallies.values()):
        invalid = sum((tally.invalid for tally in tallies.values()), Counter())
        why = ", ".join(sorted(invalid)) or "no pairs"
        raise UserError(
            f"{job.name}: none of {invalid.total()} pairs has a valid verdict ({why}). "
            f"{_advice(judge)}{advice(invalid)}"
        )


def _labels(judge: Judge, principles: Sequence[Principle], pairs: PairChunks) -> dict[str, np.ndarray]:
    """What the judge remembers of the first pairs under each of `principles`, some thousands at most."""
    chunk = next(iter(pairs.chunks()), None)
    return {p.name: judge.recall(p, chunk.ids).p_first for p in principles} if chunk else {}


def _information(judge: Judge, tallies: Sequence[LabelTally]) -> Information:
    """What the valid labels of all splits hold."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([tally.column(name)[tally.column("valid")] for tally in tallies])

    return information(
        column("p_first"), column("d_forward"), column("d_backward"), letter_mass=judge.usage.mean_letter_mass
    )


def _assignment(job: FeedbackJob) -> Assign:
    """Which principles each pair is judged under: the unit's one, or some of the constitution."""
    if job.reads.constitution is not None:
        return draw(job.reads.constitution, job.reads.verdicts_per_pair or 1, job.reads.seed)
    return _always(job.reads.principle)


def _always(principle: Principle | None) -> Assign:
    return lambda _: (principle,)


def _truth(judge: Judge, assign: Assign, pairs: PairChunks) -> list[float] | None:
    """The judge's own knowledge of what is right under the principles of a pair, averaged; None if it has none."""

    def truth(pair: Pair) -> float:
        gaps = [judge.truth(Comparison.of(pair, principle)) or 0.0 for principle in assign(pair.id)]
        return sum(gaps) / len(gaps)

    return [truth(pair) for pair in pairs] if judge.knows_truth else None


def _advice(judge: Judge) -> str:
    if judge.name == "human":
        return "Choose data whose pairs carry a human label, or another feedback source."
    return "Look at the raw replies in the ledger."


def _headline(measured: dict[str, Any], judge: Judge) -> dict[str, Any]:
    counted: Sequence[dict[str, Any]] = list(measured.values())
    total = sum(part["n"] for part in counted)
    return {
        "verdicts": total,
        "validity": sum(part["valid"] for part in counted) / total,
        "mean_bias": measured["train"]["mean_bias"],
        "agreement_human": measured["train"]["agreement_human"]["value"],
        "usd": judge.usage.usd,
    }
