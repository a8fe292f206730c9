"""What methods have in common that make a policy in rounds: sample, choose, learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches, microbatches
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op
from morlaif.memory.estimate import ForwardSize, Item
from morlaif.memory.machine import Machine
from morlaif.models.settings import FullSFT, LoRASFT
from morlaif.online.settings import Rounds, Sampling
from morlaif.stages.endings import few_ended
from morlaif.stages.scoring import Method, MethodNeeds, MethodReads
from morlaif.units.job import N, R
from morlaif.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class RoundReads(MethodReads):
    round: int = 0  # from 1; a plan gives it

    @property
    def rounds(self) -> Rounds:
        """Of the method's own settings."""
        raise NotImplementedError


@dataclass(frozen=True)
class RoundNeeds(MethodNeeds):
    teacher: Mapping[str, Path]  # the policy of one, where the arm begins from it

    @property
    def before(self) -> Path | None:
        """The round before this one."""
        raise NotImplementedError

    @property
    def origin(self) -> Path:
        """The policy that the first round begins from."""
        return next(iter(self.teacher.values()), self.sft)


class InRounds(Method[R, N]):
    """A method of such rounds."""

    resumes = True
    may_start = True

    def rounds(self, reads: Any) -> int:
        return int(reads.rounds.rounds)

    def on_ranks(self, reads: Any) -> bool:
        return True

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"{self.name}.sampling.max_new_tokens={unit.reads.rounds.sampling.max_new_tokens}"
        return few_ended({"the samples": numbers.get("sampled_ended")}, unit.reads.places, limit)

    def smaller(self, reads: Any) -> Iterator[str]:
        yield from halves(f"{self.name}.sampling.batch_size", reads.rounds.sampling.batch_size)


# --- learning from chosen responses by supervised fine-tuning -------------------------------------------------------


def imitation_batches(settings: FullSFT | LoRASFT, ranks: int, key: str) -> Microbatches:
    return microbatches(settings.batch_size, settings.micro_batch_size, ranks, key=key)


def smaller_imitation(settings: FullSFT | LoRASFT, key: str) -> Iterator[str]:
    """Overrides that make fine-tuning take less memory."""
    if not settings.gradient_checkpointing:
        yield f"{key}.gradient_checkpointing=true"
    yield from halves(f"{key}.micro_batch_size", settings.micro_batch_size or settings.batch_size)


def imitation_memory(settings: FullSFT | LoRASFT, machine: Machine, key: str) -> tuple[list[Item], int]:
    """All that is there while a policy is fine-tuned, and how many parameters learn."""
    layout, policy = machine.layout, machine.policy
    rows = ForwardSize(imitation_batches(settings, layout.ranks, key).micro, settings.max_length)
    lora = settings.lora if isinstance(settings, LoRASFT) else None
    held, learning = machine.learner(policy, lora)
    adapter = (lora.r, lora.dropout) if lora else None
    work = layout.activations(policy, rows, settings.gradient_checkpointing, logits=True, lora=adapter)
    return [*held, *layout.gathers(policy, learns=True), *work], learning


def sampling_memory(sampling: Sampling, machine: Machine) -> dict[str, list[Item]]:
    """A policy that samples; then, once it is gone, the preference models."""
    layout, policy = machine.layout, machine.policy
    size = ForwardSize(sampling.batch_size, (sampling.max_prompt_tokens or 512) + sampling.max_new_tokens)
    sample = [*layout.frozen(policy), *layout.gathers(policy, learns=False), *layout.cache(policy, size)]
    return {"sampling": sample, "scoring": [*machine.bank(), *machine.scoring()]}


def imitation_effort(settings: FullSFT | LoRASFT, machine: Machine, data: Amounts, rows: int) -> Effort:
    steps = settings.max_steps or max(1, -(-int(settings.epochs * rows) // settings.batch_size))
    micro = min(settings.micro_batch_size or settings.batch_size, settings.batch_size)
    length = data.padded(micro, settings.max_length, data.response)
    op: Op = "adapt" if isinstance(settings, LoRASFT) else "learn"
    dropout = settings.lora.dropout if isinstance(settings, LoRASFT) else 0.0
    times = steps * settings.batch_size / micro
    return Effort(op, "policy", machine.policy, micro, length, times, logits=micro * length, dropout=dropout)
