"""Stage `backbone`: the network that preference models of the kinds `heads` and `conditioned` share.

It is trained on all principles' verdicts in one pass over the pairs. Each verdict moves the shared weights, so a
thirteenth principle makes another network: it is trained anew, with all its views. Kinds `lora`, `trunk`, `ensemble`
and `full` train only what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from morlaif.batches import Microbatches
from morlaif.feedback.settings import Principle
from morlaif.memory.effort import Amounts, Effort
from morlaif.memory.estimate import StageMemory
from morlaif.memory.machine import Machine
from morlaif.preference.settings import PMSettings
from morlaif.stages.places import Places
from morlaif.stages.pm import batch_of, simpler_training, smaller_training, training, training_efforts
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class BackboneReads(Reads):
    pm: PMSettings
    split: str
    places: Places
    principles: Mapping[str, Principle | None]


@dataclass(frozen=True)
class BackboneNeeds:
    respond: Path
    sft: Path | None
    feedback: Mapping[str, Path]


BackboneJob = Job[BackboneReads, BackboneNeeds]


class Backbone(Stage[BackboneReads, BackboneNeeds]):
    name = "backbone"
    version = 3
    reads = BackboneReads
    needs = BackboneNeeds
    work = "morlaif.stages.work.backbone"
    loads_model = True
    paired = True

    def on_ranks(self, reads: BackboneReads) -> bool:
        return True

    def microbatches(self, reads: BackboneReads, ranks: int) -> Microbatches:
        return batch_of(reads.pm, ranks)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        return training(unit, machine)

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> list[Effort] | None:
        return training_efforts(unit, machine, data)

    def smaller(self, reads: BackboneReads) -> Iterator[str]:
        return smaller_training(reads.pm)

    def simpler(self, reads: BackboneReads) -> Iterator[str]:
        return simpler_training(reads.pm)


STAGE = Backbone()
