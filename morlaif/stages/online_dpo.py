"""Stage `online_dpo`: rounds of sampling, ranking by the arm's reward, and DPO on the best against the worst."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op, loaded, sampled, scored
from morlaif.memory.estimate import ForwardSize, StageMemory
from morlaif.memory.machine import Machine, operations
from morlaif.online.settings import OnlineDPOSettings
from morlaif.settings import Settings
from morlaif.stages.rounds import InRounds, RoundNeeds, RoundReads, sampling_memory
from morlaif.units.job import Job
from morlaif.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class OnlineDPOReads(RoundReads):
    online_dpo: OnlineDPOSettings

    @property
    def rounds(self) -> OnlineDPOSettings:
        return self.online_dpo


@dataclass(frozen=True)
class OnlineDPONeeds(RoundNeeds):
    online_dpo: Mapping[str, Path]  # the round before this one

    @property
    def before(self) -> Path | None:
        return next(iter(self.online_dpo.values()), None)


OnlineDPOJob = Job[OnlineDPOReads, OnlineDPONeeds]


class OnlineDPO(InRounds[OnlineDPOReads, OnlineDPONeeds]):
    name = "online_dpo"
    version = 1
    reads = OnlineDPOReads
    needs = OnlineDPONeeds
    work = "morlaif.stages.work.online_dpo"

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"online_dpo": groups["online_dpo"], **params}

    def microbatches(self, reads: OnlineDPOReads, ranks: int) -> Microbatches:
        return Microbatches(reads.online_dpo.dpo.micro_batch_size, 1)  # the loop steps by itself

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s: OnlineDPOSettings = unit.reads.online_dpo
        own, layout, policy = s.dpo, machine.layout, machine.policy
        lora, checkpointing = own.policy.kind == "lora", own.policy.gradient_checkpointing
        held, learning = layout.trained(policy), policy.parameters
        if lora:
            learning = policy.lora(own.policy.r)
            held = layout.frozen(policy) + layout.adapters(learning, learn=1)
        else:
            held = held + [item._replace(formula=f"reference: {item.formula}") for item in layout.twin(policy)]
        rows = 2 * min(own.micro_batch_size, -(-own.batch_size // layout.ranks))
        learn = [
            *held,
            *layout.gathers(policy, learns=True),
            *layout.activations(
                policy, ForwardSize(rows, own.max_length), checkpointing, logits=False,
                lora=(own.policy.r, 0.0) if lora else None,
            ),
            machine.logits(rows * s.sampling.max_new_tokens),
        ]  # fmt: skip
        turns = sampling_memory(s.sampling, machine) | {"learning": learn}
        tokens = 2 * own.batch_size * own.max_length
        seconds = machine.compute(policy, tokens, operations(lora, checkpointing), logits=tokens / 2)
        return machine.stage(self.name, [], turns, learning, seconds, f"of {own.batch_size} pairs")

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        s: OnlineDPOSettings = unit.reads.online_dpo
        known = None if data.examples is None else data.examples - (data.held_out or 0) - s.eval_prompts
        prompts = min(s.prompts or known or 0, known or s.prompts or 0)
        if not prompts:
            return None
        models, of, own, policy = len(unit.of("pm")), s.sampling, s.dpo, machine.policy
        responses = s.n * prompts + 2 * s.eval_prompts
        rows = 2 * max(1, min(own.micro_batch_size, own.batch_size))
        length = data.padded(1, own.max_length, data.sampled)
        logits, steps = rows * min(data.sampled, length), own.steps(prompts)
        priced = 2 * s.n * prompts if s.kl_coef and unit.reads.round > 1 else 0  # by the policy and by the first one
        op: Op = "adapt" if own.policy.kind == "lora" else "learn"
        return [
            loaded("policy", policy, 5),
            loaded("base", machine.base, 2),
            *sampled(policy, responses, of.batch_size, data, of.max_new_tokens, of.max_prompt_tokens),
            *scored(machine.base, responses, models, data, machine.longest),
            Effort("read", "policy", policy, rows, length, (2 * prompts + priced) / rows, logits=logits),
            Effort(op, "policy", policy, rows, length, 2 * steps * own.batch_size / rows, logits=logits),
        ]

    def smaller(self, reads: OnlineDPOReads) -> Iterator[str]:
        own = reads.online_dpo.dpo
        yield from super().smaller(reads)
        if not own.policy.gradient_checkpointing:
            yield "online_dpo.dpo.policy.gradient_checkpointing=true"
        yield from halves("online_dpo.dpo.micro_batch_size", own.micro_batch_size)

    def simpler(self, reads: OnlineDPOReads) -> Iterator[str]:
        if reads.online_dpo.dpo.policy.kind == "full":
            yield "online_dpo=lora"


STAGE = OnlineDPO()
