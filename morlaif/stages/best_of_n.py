"""Stage `best_of_n`: no training; the best of n responses of the SFT policy to each held-out prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from morlaif.evaluation.settings import Answering, EvalSettings, RulesJudge
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, loaded, sampled, scored
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.online.settings import BestOfNSettings
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.settings import Settings
from morlaif.stages.endings import few_ended
from morlaif.stages.scoring import Method, MethodNeeds, MethodReads
from morlaif.units.job import Job
from morlaif.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class BestOfNReads(MethodReads):
    best_of_n: BestOfNSettings
    answers: Answering  # as the evaluation has them
    scalarizers: Mapping[str, ScalarizerSettings]  # others that choose among the same samples, for the curves over n
    truth: bool  # whether responses have a hidden utility that is known

    @property
    def rated(self) -> tuple[int, int]:
        return self.best_of_n.n * self.answers.prompts, self.answers.max_new_tokens


BestOfNJob = Job[BestOfNReads, MethodNeeds]


class BestOfN(Method[BestOfNReads, MethodNeeds]):
    name = "best_of_n"
    version = 1
    reads = BestOfNReads
    work = "morlaif.stages.work.best_of_n"
    artifact = None  # it is no model
    resumes = True
    seeded_by = "eval"

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        evaluation = groups["eval"]
        assert isinstance(evaluation, EvalSettings)
        return {
            "best_of_n": groups["best_of_n"],
            "answers": evaluation.answering,
            "scalarizers": evaluation.scalarizers,
            "truth": isinstance(evaluation.judge, RulesJudge),
            **params,
        }

    def on_ranks(self, reads: BestOfNReads) -> bool:
        return True

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"eval.max_new_tokens={unit.reads.answers.max_new_tokens}"
        return few_ended({"the samples": numbers.get("ended")}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.answers
        return machine.sampling(self.name, s.batch_size, s.max_prompt_tokens, s.max_new_tokens, machine.bank())

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort]:
        s = unit.reads.answers
        rows = unit.reads.best_of_n.n * (s.prompts if data.held_out is None else min(s.prompts, data.held_out))
        yield loaded("policy", machine.policy)
        yield loaded("base", machine.base)
        yield from sampled(machine.policy, rows, s.batch_size, data, s.max_new_tokens, s.max_prompt_tokens)
        yield from scored(machine.base, rows, len(unit.of("pm")), data, machine.longest)

    def smaller(self, reads: BestOfNReads) -> Iterator[str]:
        return halves("eval.batch_size", reads.answers.batch_size)


STAGE = BestOfN()
