"""Stage `feedback`: a verdict for each pair under one principle, or (the single-model baseline) a constitution."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from morlaif.data.records import Pair, load_pairs
from morlaif.errors import UserError
from morlaif.feedback.judge import Judge, open_judge
from morlaif.feedback.label import Assign, draw, label_with
from morlaif.feedback.quality import quality
from morlaif.feedback.records import Comparison, save_verdicts
from morlaif.stages.job import Job

SPLITS = ("train", "eval")


def build(job: Job) -> dict[str, Any]:
    settings = job.config["feedback"]
    pairs = {split: load_pairs(job.inputs["respond"], split) for split in SPLITS}
    assign = _assignment(job)
    judge = open_judge(settings, ledger=job.ledger, seed=job.seed)

    both = [pair for split in SPLITS for pair in pairs[split]]
    known = {verdict.pair_id: verdict for verdict in label_with(judge, both, assign, job.progress)}
    verdicts = {split: [known[pair.id] for pair in pairs[split]] for split in SPLITS}
    if not any(verdict.valid for verdict in known.values()):
        reasons = sorted({str(verdict.reason) for verdict in known.values()})
        why = ", ".join(reasons) or "no pairs"
        raise UserError(f"{job.name}: none of {len(known)} pairs has a valid verdict ({why}). {_advice(judge)}")

    measured = {split: quality(pairs[split], verdicts[split], _truth(judge, assign)) for split in SPLITS}
    save_verdicts(job.out, verdicts)
    report = {**measured, "judge": judge.name, "usage": asdict(judge.usage)}
    (job.out / "quality.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _headline(measured, judge)


def _assignment(job: Job) -> Assign:
    """Which principles each pair is judged under: the unit's one, or some of the constitution."""
    if "constitution" in job.config:
        return draw(job.config["constitution"], job.config["verdicts_per_pair"], job.config["seed"])
    principle = job.config.get("principle")  # none for human labels that stand for no principle
    return lambda pair: (principle,)


def _truth(judge: Judge, assign: Assign):
    """The judge's own knowledge of what is right under the principles of a pair, averaged; None if it has none."""

    def truth(pair: Pair) -> float | None:
        gaps = [judge.truth(Comparison.of(pair, principle)) for principle in assign(pair)]
        return None if None in gaps else sum(gaps) / len(gaps)

    return truth if judge.name == "rules" else None


def _advice(judge: Judge) -> str:
    if judge.name == "human":
        return "Choose data whose pairs carry a human label, or another feedback source."
    return "Look at the raw replies in the ledger."


def _headline(measured: dict[str, Any], judge: Judge) -> dict[str, Any]:
    counted: Sequence[dict] = list(measured.values())
    total = sum(part["n"] for part in counted)
    return {
        "verdicts": total,
        "validity": sum(part["valid"] for part in counted) / total,
        "mean_bias": measured["train"]["mean_bias"],
        "agreement_human": measured["train"]["agreement_human"]["value"],
        "usd": judge.usage.usd,
    }
