"""Stage `respond`: two different responses to each prompt, sampled from the SFT model or taken from the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, loaded, sampled
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.models.settings import RespondSettings, SampleResponses
from morlaif.stages.endings import few_ended
from morlaif.stages.places import Places
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class RespondReads(Reads):
    respond: RespondSettings
    places: Places | None = None  # where a model is sampled from


@dataclass(frozen=True)
class RespondNeeds:
    data: Path
    sft: Path | None


RespondJob = Job[RespondReads, RespondNeeds]


class Respond(Stage[RespondReads, RespondNeeds]):
    name = "respond"
    version = 2
    reads = RespondReads
    needs = RespondNeeds
    work = "morlaif.stages.work.respond"
    counts = "prompt"
    loads_model = True

    def on_ranks(self, reads: RespondReads) -> bool:
        return isinstance(reads.respond, SampleResponses)

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        s = unit.reads.respond
        if isinstance(s, SampleResponses):
            limit = f"respond.max_new_tokens={s.max_new_tokens}"
            yield from few_ended({"the sampled responses": numbers.get("train_ended")}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.respond
        if not isinstance(s, SampleResponses):
            return None
        return machine.sampling("respond", s.batch_size, s.max_prompt_tokens, s.max_new_tokens)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        s = unit.reads.respond
        if not isinstance(s, SampleResponses):
            return ()
        if data.examples is None:
            return None
        made = sampled(machine.policy, 2 * data.examples, s.batch_size, data, s.max_new_tokens, s.max_prompt_tokens)
        return [loaded("policy", machine.policy), *made]

    def smaller(self, reads: RespondReads) -> Iterator[str]:
        if isinstance(reads.respond, SampleResponses):
            yield from halves("respond.batch_size", reads.respond.batch_size)


STAGE = Respond()
