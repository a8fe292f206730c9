"""Stage `rejection`: the best of n responses to each training prompt are imitated, in rounds of a unit each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches
from morlaif.memory.effort import Amounts, Effort, loaded, sampled, scored
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.models.settings import FullSFT
from morlaif.online.settings import RejectionSettings
from morlaif.settings import Settings
from morlaif.stages.rounds import (
    InRounds,
    RoundNeeds,
    RoundReads,
    imitation_batches,
    imitation_effort,
    imitation_memory,
    sampling_memory,
    smaller_imitation,
)
from morlaif.units.job import Job
from morlaif.units.unit import Unit

KEY = "rejection.training"


@dataclass(frozen=True, kw_only=True)
class RejectionReads(RoundReads):
    rejection: RejectionSettings

    @property
    def rounds(self) -> RejectionSettings:
        return self.rejection


@dataclass(frozen=True)
class RejectionNeeds(RoundNeeds):
    rejection: Mapping[str, Path]  # the round before this one

    @property
    def before(self) -> Path | None:
        return next(iter(self.rejection.values()), None)


RejectionJob = Job[RejectionReads, RejectionNeeds]


class Rejection(InRounds[RejectionReads, RejectionNeeds]):
    name = "rejection"
    version = 1
    reads = RejectionReads
    needs = RejectionNeeds
    work = "morlaif.stages.work.rejection"

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"rejection": groups["rejection"], **params}

    def microbatches(self, reads: RejectionReads, ranks: int) -> Microbatches:
        return imitation_batches(reads.rejection.training, ranks, KEY)

    def clips(self, reads: RejectionReads) -> float:
        return reads.rejection.training.max_grad_norm

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s: RejectionSettings = unit.reads.rejection
        learn, learning = imitation_memory(s.training, machine, KEY)
        turns = sampling_memory(s.sampling, machine) | {"learning": learn}
        at_once = s.sampling.batch_size
        seconds = machine.generation(at_once * machine.layout.ranks, at_once, s.sampling.max_new_tokens)
        return machine.stage(self.name, [], turns, learning, seconds, f"of {at_once} responses")

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        s: RejectionSettings = unit.reads.rejection
        known = None if data.examples is None else data.examples - (data.held_out or 0) - s.eval_prompts
        prompts = min(s.prompts or known or 0, known or s.prompts or 0)
        if not prompts:
            return None
        models, of = len(unit.of("pm")), s.sampling
        rows = s.n * prompts + 2 * s.eval_prompts
        return [
            loaded("policy", machine.policy, 4),
            loaded("base", machine.base, 2),
            *sampled(machine.policy, rows, of.batch_size, data, of.max_new_tokens, of.max_prompt_tokens),
            *scored(machine.base, rows, models, data, machine.longest),
            imitation_effort(s.training, machine, data, prompts),
        ]

    def smaller(self, reads: RejectionReads) -> Iterator[str]:
        yield from super().smaller(reads)
        yield from smaller_imitation(reads.rejection.training, KEY)

    def simpler(self, reads: RejectionReads) -> Iterator[str]:
        if isinstance(reads.rejection.training, FullSFT):
            yield "rejection=lora"


STAGE = Rejection()
