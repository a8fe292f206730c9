"""Stage `weigh`: the frozen mean and scale of each column of the reward, and the weight of each principle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, loaded, sampled, scored
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.models.settings import SampleResponses
from morlaif.scalarize.settings import WeightsSettings
from morlaif.stages.scoring import ScoringReads
from morlaif.units.job import Job
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class WeighReads(ScoringReads):
    weights: WeightsSettings
    sft_scores: bool = False  # whether a scalarizer reads the scores of the SFT responses, which are then kept


@dataclass(frozen=True)
class WeighNeeds:
    data: Path
    sft: Path
    respond: Path
    pm: Mapping[str, Path]
    feedback: Mapping[str, Path]  # where the weights come from human labels


WeighJob = Job[WeighReads, WeighNeeds]


class Weigh(Stage[WeighReads, WeighNeeds]):
    name = "weigh"
    version = 3
    reads = WeighReads
    needs = WeighNeeds
    work = "morlaif.stages.work.weigh"
    loads_model = True
    paired = True

    def on_ranks(self, reads: WeighReads) -> bool:
        return True

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.weights
        models = machine.bank()
        if not models:
            return None
        if isinstance(unit.of("respond")[0].reads.respond, SampleResponses):  # the responses are there
            always = [*models, *machine.layout.gathers(machine.base, learns=False)]
            return machine.stage("weigh", always, {"scoring": machine.scoring()}, 0, None, "")
        return machine.sampling("weigh", s.batch_size, s.max_prompt_tokens, s.max_new_tokens, models)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort]:
        s = unit.reads.weights
        yield loaded("base", machine.base)
        yield from scored(machine.base, s.prompts, len(unit.of("pm")), data, machine.longest)
        if not isinstance(unit.of("respond")[0].reads.respond, SampleResponses):
            yield from sampled(machine.policy, s.prompts, s.batch_size, data, s.max_new_tokens, s.max_prompt_tokens)

    def smaller(self, reads: WeighReads) -> Iterator[str]:
        return halves("weights.batch_size", reads.weights.batch_size)


STAGE = Weigh()
