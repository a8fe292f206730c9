"""`rejection`: one round of sampling, choosing the best, and imitating it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from morlaif import ranks
from morlaif.data.records import prompt_id
from morlaif.errors import Damaged
from morlaif.files import read_json_lines
from morlaif.models.finetune import Turn
from morlaif.stages.rejection import KEY, RejectionJob
from morlaif.stages.work.rounds import (
    Choice,
    begins,
    choice,
    curve_before,
    imitate,
    leave_round,
    look,
    objective_of,
    prompts_of,
    totals,
    write_lines,
)

CHOSEN = "chosen.jsonl"  # the best response to each prompt so far, with its value


def build(job: RejectionJob) -> dict[str, Any]:
    settings, before = job.reads.rejection, job.needs.before
    objective = objective_of(job)
    prompts, held_out = prompts_of(job, settings)
    curve = curve_before(job, before)
    if not curve:
        curve = [{"step": 0, **look(job, begins(job), held_out, settings.sampling, objective)}]

    # 1. sample and choose; what is imitated are the best of this round, or of all rounds where SFT begins anew
    steps = 100
    found, facts = choice(job, prompts, settings.sampling, settings.n, objective, steps)
    rows = {row["prompt_id"]: row for row in _chosen(found)}
    if settings.start == "sft" and before is not None:
        for _, old in read_json_lines(before / CHOSEN, failure=Damaged):
            own = rows.get(old["prompt_id"])
            if own is None or old["value"] > own["value"]:
                rows[old["prompt_id"]] = old
    ranks.on_first(lambda: write_lines(job.out / CHOSEN, rows.values()))

    # 2. imitate
    turns = [Turn(row["prompt"], row["ids"]) for row in rows.values()]
    folder = job.needs.origin if settings.start == "sft" else begins(job)
    updates = imitate(job, folder, turns, settings.training, KEY)

    # 3. what came of it
    row = {"step": job.reads.round, **look(job, job.out, held_out, settings.sampling, objective), **found.row()}
    row |= {f"reward/{kind}": value for kind, value in facts.items()}
    spent = totals(job, before or job.needs.origin, steps=updates, episodes=settings.n * len(prompts))
    return leave_round(job, [*curve, row], spent, objective)


def _chosen(found: Choice) -> Iterator[dict[str, Any]]:
    for place, (messages, own, k) in enumerate(zip(found.prompts, found.samples, found.best, strict=True)):
        yield {
            "prompt_id": prompt_id(messages), "messages": messages, "text": own.texts[k],
            "value": found.values[place, k].item(), "prompt": own.prompt, "ids": own.ids[k],
        }  # fmt: skip
