"""Stage `pm`: one preference model, trained on the verdicts of one principle."""

from __future__ import annotations

from typing import Any

from morlaif.data.records import load_pairs
from morlaif.feedback.records import load_verdicts
from morlaif.models.load import resolve_model
from morlaif.preference.settings import TrainedPM
from morlaif.preference.train import train_pm
from morlaif.stages.job import Job

OTHER = {"train": "eval", "eval": "train"}


def build(job: Job) -> dict[str, Any]:
    settings: TrainedPM = job.config["pm"]
    split = job.config.get("split", "train")  # the gold judge learns from the other side
    principle = job.name.removeprefix("pm/")
    own = settings.base is None
    base, revision = resolve_model(job.inputs["sft"]) if own else (settings.base, settings.revision)

    pairs, verdicts = {}, {}
    for name in (split, OTHER[split]):
        pairs[name] = load_pairs(job.inputs["respond"], name)
        verdicts[name] = load_verdicts(job.inputs[f"feedback/{principle}"], name)

    report = train_pm(
        pairs[split], verdicts[split], pairs[OTHER[split]], verdicts[OTHER[split]], base, settings,
        principle=principle, out=job.out, seed=job.seed, revision=revision, own_base=own,
        device=job.device, dtype=job.dtype,
        on_step=lambda step, steps, loss: job.progress(step, steps, loss=loss),
    )  # fmt: skip
    return {
        "accuracy": report.accuracy["value"],
        "length_baseline": report.length_baseline["value"],
        "brier": report.brier,
        "train_loss": report.train_loss,
    }
