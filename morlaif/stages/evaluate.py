"""Stage `evaluate`: how far the preference models, the objectives and the policies got, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from morlaif.evaluation.settings import EvalSettings, JudgeSettings
from morlaif.feedback.settings import Principle
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, loaded, sampled, scored
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.stages.endings import few_ended
from morlaif.stages.feedback import judge_effort, judging
from morlaif.stages.places import Places
from morlaif.units.job import REST, Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class ArmRead:
    """One arm of a run."""

    name: str
    labels: str  # principles, constitution, human or none
    models: tuple[str, ...]  # its preference models
    title: str | None  # on pages; none: what the reward suggests
    method: str  # the stage that makes its policy
    scalarizer: ScalarizerSettings | None = None  # of its own; none: the run's


@dataclass(frozen=True, kw_only=True)
class EvaluateReads(Reads):
    eval: EvalSettings
    scalarizer: ScalarizerSettings
    objective: str  # what results call it
    principles: tuple[Principle, ...]
    arms: tuple[ArmRead, ...]  # the first has the run's policy
    places: Places
    policies: Mapping[str, str] | None = None  # which they are that come from outside


@dataclass(frozen=True)
class EvaluateNeeds:
    data: Path
    sft: Path
    respond: Path
    feedback: Mapping[str, Path]
    pm: Mapping[str, Path]
    weigh: Mapping[str, Path]  # by arm
    policies: Mapping[str, Path] = field(metadata=REST)  # by arm, whatever its method


EvaluateJob = Job[EvaluateReads, EvaluateNeeds]


class Evaluate(Stage[EvaluateReads, EvaluateNeeds]):
    name = "evaluate"
    version = 7
    reads = EvaluateReads
    needs = EvaluateNeeds
    work = "morlaif.stages.work.evaluate"
    artifact = "evaluation"
    loads_model = True

    def on_ranks(self, reads: EvaluateReads) -> bool:
        return True

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"eval.max_new_tokens={unit.reads.eval.max_new_tokens}"
        answers = {key.removeprefix("ended/"): share for key, share in numbers.items() if key.startswith("ended/")}
        return few_ended({f"the answers of {arm}": share for arm, share in answers.items()}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.eval
        made = machine.sampling("evaluate", s.batch_size, s.max_prompt_tokens, s.max_new_tokens, machine.bank())
        return with_judge(made, s.judge, s.max_new_tokens, machine)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort]:
        s = unit.reads.eval
        policies, models = 1 + len(unit.reads.arms) + len(s.policies), len(unit.of("pm"))
        prompts = s.prompts if data.held_out is None else min(s.prompts, data.held_out)
        yield loaded("policy", machine.policy, policies)
        yield loaded("base", machine.base)
        yield from sampled(
            machine.policy, policies * prompts, s.batch_size, data, s.max_new_tokens, s.max_prompt_tokens
        )
        pairs = 2 * min(s.pairs or data.held_out or 0, data.held_out or 0)
        yield from scored(machine.base, policies * min(s.scored, prompts) + pairs, models, data, machine.longest)
        new = min(s.max_new_tokens, data.response)
        if (judge := judging(getattr(s.judge, "engine", None), 1, new, data.prompt)) is not None:
            yield loaded("judge", judge.dims)
            yield judge_effort(judge, prompts * (2 * len(unit.reads.arms) - 1) + s.agreement)

    def smaller(self, reads: EvaluateReads) -> Iterator[str]:
        return halves("eval.batch_size", reads.eval.batch_size)


def with_judge(made: StageMemory, settings: JudgeSettings, new: int, machine: Machine) -> StageMemory:
    """Of a stage that samples, its judge too, when policies have answered and gone; the preference models stay."""
    judge = judging(getattr(settings, "engine", None), 1, new)
    if judge is None:
        return made
    weights, turn = machine.judging(judge)
    policy = machine.layout.frozen(machine.policy)
    always = tuple(item for item in made.always if item not in policy)
    return replace(
        made, always=always,
        turns=(*((name, (*policy, *items)) for name, items in made.turns), ("judging", (*weights, *turn))),
    )  # fmt: skip


STAGE = Evaluate()
