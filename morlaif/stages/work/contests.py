"""Stage `contests`: have policies of finished runs judged against one another, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from morlaif.data.records import Message
from morlaif.errors import UserError
from morlaif.evaluation.judges import PolicyJudge
from morlaif.report.data import read_lines
from morlaif.stages.contests import OUTCOMES, ContestsJob, Entrant
from morlaif.stages.work.compare import judge_of
from morlaif.statistics import outcomes

Answers = Mapping[str, tuple[list[Message], str]]  # prompt and response, by the prompt's id


def build(job: ContestsJob) -> dict[str, Any]:
    judge = judge_of(job, job.reads.judge, job.reads.units)
    known: dict[Entrant, Answers] = {}
    found = []
    for step, (first, second) in enumerate(job.reads.contests, 1):
        for entrant in (first, second):
            if entrant not in known:
                known[entrant] = _answers(job.needs[entrant[0]], entrant[1])
        found.append(_contest(judge, known[first], known[second]))
        job.progress(step, len(job.reads.contests))
    (job.out / OUTCOMES).write_text(json.dumps(found) + "\n", encoding="utf-8")
    return {"contests": len(found)}


def _contest(judge: PolicyJudge, first: Answers, second: Answers) -> dict[str, float | None]:
    """Of the first policy, by the prompts that both have answered: win 1, tie ½, loss 0, None without a verdict."""
    shared = [id_ for id_ in first if id_ in second]
    if not shared:
        raise UserError("two policies have answered no prompt in common: do their runs have the same data and eval?")
    prompts = [first[id_][0] for id_ in shared]
    verdict = judge.compare(prompts, [first[id_][1] for id_ in shared], [second[id_][1] for id_ in shared])
    outcome = outcomes(verdict.forward, verdict.backward, verdict.valid)
    return {id_: None if np.isnan(x) else float(x) for id_, x in zip(shared, outcome, strict=True)}


def _answers(folder: Path, policy: str) -> Answers:
    rows = read_lines(folder / "responses.jsonl")
    return {row["prompt_id"]: (row["messages"], row["responses"][policy]["text"]) for row in rows}
