"""Stage `teacher`: the SFT policy imitates a teacher's completions of training prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches
from morlaif.memory.effort import Amounts, Effort, loaded
from morlaif.memory.estimate import ForwardSize, StageMemory
from morlaif.memory.machine import Machine
from morlaif.models.settings import FullSFT
from morlaif.online.settings import ModelTeacher, TeacherSettings
from morlaif.settings import Settings
from morlaif.stages.rounds import imitation_batches, imitation_effort, imitation_memory, smaller_imitation
from morlaif.stages.scoring import Method, MethodReads
from morlaif.units.job import Job
from morlaif.units.unit import Unit

KEY = "teacher.training"


@dataclass(frozen=True, kw_only=True)
class TeacherReads(MethodReads):
    teacher: TeacherSettings
    round: int = 0  # it has none


@dataclass(frozen=True)
class TeacherNeeds:
    data: Path
    sft: Path


TeacherJob = Job[TeacherReads, TeacherNeeds]


class Teacher(Method[TeacherReads, TeacherNeeds]):
    name = "teacher"
    version = 1
    reads = TeacherReads
    needs = TeacherNeeds
    work = "morlaif.stages.work.teacher"
    resumes = True
    rewarded = False

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"teacher": groups["teacher"], **params}

    def problems(self, reads: TeacherReads) -> Iterator[str]:
        teacher = reads.teacher.teacher
        if isinstance(teacher, ModelTeacher) and teacher.path is None:
            yield "teacher.teacher.path: give the teacher's folder in Hugging Face format, or a hub id"

    def on_ranks(self, reads: TeacherReads) -> bool:
        return True

    def microbatches(self, reads: TeacherReads, ranks: int) -> Microbatches:
        return imitation_batches(reads.teacher.training, ranks, KEY)

    def clips(self, reads: TeacherReads) -> float:
        return reads.teacher.training.max_grad_norm

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s: TeacherSettings = unit.reads.teacher
        learn, learning = imitation_memory(s.training, machine, KEY)
        layout, policy, of = machine.layout, machine.policy, s.sampling
        size = ForwardSize(of.batch_size, (of.max_prompt_tokens or 512) + of.max_new_tokens)
        looking = [*layout.frozen(policy), *layout.gathers(policy, learns=False), *layout.cache(policy, size)]
        tokens = s.training.batch_size * s.training.max_length
        seconds = machine.compute(policy, tokens, 6, logits=tokens)
        what = f"of {s.training.batch_size} rows"
        return machine.stage(self.name, [], {"looking": looking, "learning": learn}, learning, seconds, what)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        s: TeacherSettings = unit.reads.teacher
        if data.examples is None or isinstance(s.teacher, ModelTeacher):
            return None
        rows = max(1, round(s.share * (data.examples - (data.held_out or 0) - s.eval_prompts)))
        return [loaded("policy", machine.policy, 4), imitation_effort(s.training, machine, data, rows)]

    def smaller(self, reads: TeacherReads) -> Iterator[str]:
        return smaller_imitation(reads.teacher.training, KEY)

    def simpler(self, reads: TeacherReads) -> Iterator[str]:
        if isinstance(reads.teacher.training, FullSFT):
            yield "teacher=lora"


STAGE = Teacher()
