"""Stage `front`: what one way to policies for many weights reaches at each point of a grid, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morlaif.evaluation.settings import Answering, JudgeSettings
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, loaded, sampled, scored
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.stages.endings import few_ended
from morlaif.stages.evaluate import with_judge
from morlaif.stages.feedback import judge_effort, judging
from morlaif.stages.places import Places
from morlaif.steer.front import SoupSettings, Way
from morlaif.steer.simplex import Point
from morlaif.units.job import REST, Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class FrontReads(Reads):
    way: Way
    objectives: Mapping[str, tuple[str, ...]]  # the principles of each, by name
    covers: Mapping[str, tuple[str, ...]]  # of each principle, in a world of known truth
    points: Mapping[str, Point]  # by name
    trained: tuple[str, ...]  # the policies that it needs: of the corners, of all points, or the one for all weights
    models: Mapping[str, str]  # preference models that score, and their principles
    places: Places
    answers: Answering
    judge: JudgeSettings
    truth: bool  # whether true scores are known
    reference: float  # of the hypervolume, in deviations of SFT's scores
    resamples: int
    confidence: float
    soup: SoupSettings | None = None  # where policies are merged


@dataclass(frozen=True)
class FrontNeeds:
    data: Path
    sft: Path
    pm: Mapping[str, Path]
    policies: Mapping[str, Path] = field(metadata=REST)  # by the names `trained`


FrontJob = Job[FrontReads, FrontNeeds]


class Front(Stage[FrontReads, FrontNeeds]):
    name = "front"
    version = 1
    reads = FrontReads
    needs = FrontNeeds
    work = "morlaif.stages.work.front"
    artifact = "evaluation"
    loads_model = True
    resumes = True

    def on_ranks(self, reads: FrontReads) -> bool:
        return True

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"eval.max_new_tokens={unit.reads.answers.max_new_tokens}"
        return few_ended({"the answers of all points": numbers.get("ended")}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.answers
        made = machine.sampling(self.name, s.batch_size, s.max_prompt_tokens, s.max_new_tokens, machine.bank())
        return with_judge(made, unit.reads.judge, s.max_new_tokens, machine)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort]:
        s, policies = unit.reads.answers, 1 + len(unit.reads.points)
        prompts = s.prompts if data.held_out is None else min(s.prompts, data.held_out)
        merges = len(unit.reads.points) if unit.reads.way == "soup" else 0  # written and read
        yield loaded("policy", machine.policy, policies + merges)
        yield loaded("base", machine.base)
        yield from sampled(
            machine.policy, policies * prompts, s.batch_size, data, s.max_new_tokens, s.max_prompt_tokens
        )
        yield from scored(machine.base, policies * prompts, len(unit.reads.models), data, machine.longest)
        new = min(s.max_new_tokens, data.response)
        if (judge := judging(getattr(unit.reads.judge, "engine", None), 1, new, data.prompt)) is not None:
            yield loaded("judge", judge.dims)
            yield judge_effort(judge, prompts * (policies - 1))

    def smaller(self, reads: FrontReads) -> Iterator[str]:
        return halves("eval.batch_size", reads.answers.batch_size)


STAGE = Front()
