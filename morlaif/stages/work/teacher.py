"""`teacher`: a teacher's completions of training prompts, and the policy that imitates them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morlaif import ranks
from morlaif.data.chat import dialogue_parts
from morlaif.data.records import Example, different_prompts, load_split
from morlaif.data.spool import Picked
from morlaif.errors import UserError
from morlaif.models.load import load_causal_lm, load_tokenizer
from morlaif.models.place import Source
from morlaif.online.looks import response_logprobs
from morlaif.online.settings import ModelTeacher, TeacherSettings
from morlaif.online.teachers import KEY as WHO
from morlaif.online.teachers import Completion, completions
from morlaif.rl import schedule
from morlaif.stages.teacher import KEY, TeacherJob
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.rounds import free, imitate, leave_round, look, write_lines

READ = 32  # completions whose likelihood is looked at


def build(job: TeacherJob) -> dict[str, Any]:
    settings = job.reads.teacher

    # 1. what the teacher answers
    different = different_prompts(load_split(job.needs.data, "train"))
    left, held_out = schedule.hold_out(different, settings.eval_prompts, job.seed, "teacher.eval_prompts")
    count = max(1, round(settings.share * len(left)))
    prompts = Picked(left, sorted(schedule.stream(len(left), 0, count, job.seed)))
    written = _written(job, settings, prompts)
    if not written:
        raise UserError(f"{WHO}: no completion of {len(prompts)} prompts can be used")
    ranks.on_first(lambda: write_lines(job.out / "completions.jsonl", map(vars, written)))

    # 2. imitate
    start = {"step": 0, "reward": _likelihood(job, job.needs.sft, written)}
    start |= look(job, job.needs.sft, held_out, settings.sampling, None)
    examples = [Example.of(one.messages, demonstration=one.text) for one in written]
    updates = imitate(job, job.needs.sft, examples, settings.training, KEY)

    # 3. what came of it
    end = {"step": updates, "reward": _likelihood(job, job.out, written)}
    end |= look(job, job.out, held_out, settings.sampling, None)
    spent = {
        "steps": updates,
        "completions": len(written),
        "completion_tokens": sum(one.input_tokens + one.output_tokens for one in written),
        "completion_usd": sum(one.usd for one in written),
    }
    return leave_round(job, [start, end], spent, None)


def _written(job: TeacherJob, settings: TeacherSettings, prompts: Sequence[Any]) -> list[Completion]:
    def load() -> Any:
        assert isinstance(settings.teacher, ModelTeacher)
        own = settings.teacher
        source = Source(str(Path(own.path or "").expanduser()), own.revision, own.trust_remote_code, f"{WHO}.path")
        tokenizer = load_tokenizer(source)
        return load_causal_lm(source, dtype=job.dtype, device=job.device, tokenizer=tokenizer), tokenizer

    identity = job.reads.contents.get("teacher.teacher.path", "")
    return completions(
        settings, prompts, seed=job.reads.seed, ledger=job.ledger, identity=identity, load=load,
        on_progress=lambda done: job.progress(max(1, 50 * done // len(prompts)), 100),
    )  # fmt: skip


def _likelihood(job: TeacherJob, folder: Path, written: Sequence[Completion]) -> float:
    """Mean log-probability of a token of some completions, in nats: what is raised here."""
    model, tokenizer = policy_of(job, folder)
    settings = job.reads.teacher
    length = settings.training.max_length
    parts = [dialogue_parts(tokenizer, one.messages, one.text, length) for one in written[:READ]]
    prompts, answers = [list(prompt) for prompt, _ in parts], [list(answer) for _, answer in parts]
    rows = min(16, settings.sampling.batch_size)
    found = response_logprobs(
        model, tokenizer, prompts, answers, temperature=1.0, rows=rows, gather=job.hardware.zero.most_gathered
    )
    del model
    free()
    return math.fsum(found) / sum(map(len, answers))
