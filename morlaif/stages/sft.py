"""Stage `sft`: the policy that everything starts from, fine-tuned on demonstrations or left as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from morlaif.batches import Microbatches, microbatches
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op, loaded
from morlaif.memory.estimate import ForwardSize, StageMemory
from morlaif.memory.machine import Machine, operations
from morlaif.models.settings import FullSFT, LoRASFT, ModelSettings, NoSFT, SFTSettings
from morlaif.units.job import Job, Reads
from morlaif.units.unit import Stage, Unit


@dataclass(frozen=True, kw_only=True)
class SFTReads(Reads):
    model: ModelSettings
    sft: SFTSettings


@dataclass(frozen=True)
class SFTNeeds:
    data: Path


SFTJob = Job[SFTReads, SFTNeeds]


class SFT(Stage[SFTReads, SFTNeeds]):
    name = "sft"
    version = 3
    reads = SFTReads
    needs = SFTNeeds
    work = "morlaif.stages.work.sft"
    artifact = "model"
    loads_model = True

    def on_ranks(self, reads: SFTReads) -> bool:
        return not isinstance(reads.sft, NoSFT)

    def microbatches(self, reads: SFTReads, ranks: int) -> Microbatches:
        s = reads.sft
        return (
            Microbatches(1, 1)
            if isinstance(s, NoSFT)
            else microbatches(s.batch_size, s.micro_batch_size, ranks, key="sft")
        )

    def clips(self, reads: SFTReads) -> float:
        return 0.0 if isinstance(reads.sft, NoSFT) else reads.sft.max_grad_norm

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s = unit.reads.sft
        if isinstance(s, NoSFT):
            return None
        layout, policy = machine.layout, machine.policy
        rows = ForwardSize(self.microbatches(unit.reads, layout.ranks).micro, s.max_length)
        lora = s.lora if isinstance(s, LoRASFT) else None
        always, learning = machine.learner(policy, lora)
        adapter = (lora.r, lora.dropout) if lora else None
        work = layout.activations(policy, rows, s.gradient_checkpointing, logits=True, lora=adapter)
        always += layout.gathers(policy, learns=True)
        tokens = s.batch_size * s.max_length
        factor = operations(lora is not None, s.gradient_checkpointing)
        seconds = machine.compute(policy, tokens, factor, logits=tokens)
        return machine.stage("sft", always, {"learning": work}, learning, seconds, f"of {s.batch_size} rows")

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> list[Effort] | None:
        s = unit.reads.sft
        if isinstance(s, NoSFT):
            return []
        if s.max_steps is None and data.demonstrations is None:
            return None
        steps = s.max_steps or math.ceil(s.epochs * (data.demonstrations or 0) / s.batch_size)
        micro = min(s.micro_batch_size or s.batch_size, s.batch_size)
        length = data.padded(micro, s.max_length, data.response)
        op: Op = "adapt" if isinstance(s, LoRASFT) else "learn"
        times = steps * s.batch_size / micro
        dropout = s.lora.dropout if isinstance(s, LoRASFT) else 0.0
        return [
            loaded("policy", machine.policy, 2),  # and written
            Effort(op, "policy", machine.policy, micro, length, times, logits=micro * length, dropout=dropout),
        ]

    def smaller(self, reads: SFTReads) -> Iterator[str]:
        s = reads.sft
        if not isinstance(s, NoSFT):
            if not s.gradient_checkpointing:
                yield "sft.gradient_checkpointing=true"
            yield from halves("sft.micro_batch_size", s.micro_batch_size or s.batch_size)

    def simpler(self, reads: SFTReads) -> Iterator[str]:
        if isinstance(reads.sft, FullSFT):
            yield "sft=lora"


STAGE = SFT()
