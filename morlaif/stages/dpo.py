"""Stage `dpo`: the SFT policy learns from the arm's verdicts on pairs themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches
from morlaif.dpo.settings import DPOSettings
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op, loaded, sampled, scored
from morlaif.memory.estimate import ForwardSize, StageMemory
from morlaif.memory.machine import Machine, operations
from morlaif.naming import labelled_by
from morlaif.settings import Settings
from morlaif.stages.endings import few_ended
from morlaif.stages.scoring import Method, MethodReads
from morlaif.units.job import Job
from morlaif.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class DPOReads(MethodReads):
    dpo: DPOSettings

    @property
    def weighs(self) -> bool:
        """Whether it reads the arm's weights: of several principles, or of a reward."""
        return self.rewards or len(self.names) > 1

    @property
    def rewards(self) -> bool:
        """Whether it scores the pairs by the arm's reward."""
        return self.dpo.kind != "dpo"


@dataclass(frozen=True)
class DPONeeds:
    sft: Path
    respond: Path
    feedback: Mapping[str, Path]  # by what it was labelled under: principles, or a constitution or people as a whole
    weigh: Path | None
    pm: Mapping[str, Path]


DPOJob = Job[DPOReads, DPONeeds]


class DPO(Method[DPOReads, DPONeeds]):
    name = "dpo"
    version = 1
    reads = DPOReads
    needs = DPONeeds
    work = "morlaif.stages.work.dpo"
    resumes = True
    verdicts = True

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"dpo": groups["dpo"], **params}

    def wanted(self, reads: DPOReads) -> tuple[str, ...]:
        """No preference model, and nothing that is made with one, where it learns from verdicts alone."""
        return (
            "sft", "respond", "feedback", *(["weigh"] if reads.weighs else []), *(["pm"] if reads.rewards else [])
        )  # fmt: skip

    def problems(self, reads: DPOReads) -> Iterator[str]:
        named = reads.dpo.principle
        if named is not None and named not in (own := [labelled_by(column.own) for column in reads.layout.columns]):
            yield f"dpo.principle: the arm's reward has no '{named}'; it has {', '.join(own)}"

    def on_ranks(self, reads: DPOReads) -> bool:
        return True

    def microbatches(self, reads: DPOReads, ranks: int) -> Microbatches:
        return Microbatches(reads.dpo.micro_batch_size, 1)  # the loop cuts its batches by length and steps by itself

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"dpo.max_new_tokens={unit.reads.dpo.max_new_tokens}"
        return few_ended({"its answers": numbers.get("ended")}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s, layout, policy = unit.reads.dpo, machine.layout, machine.policy
        lora, checkpointing = s.policy.kind == "lora", s.policy.gradient_checkpointing
        rows = 2 * min(s.micro_batch_size, -(-s.batch_size // layout.ranks))
        if lora:
            learning = policy.lora(s.policy.r)
            always = layout.frozen(policy) + layout.adapters(learning, learn=1)
        else:
            learning = policy.parameters
            always = layout.trained(policy)
            always += [item._replace(formula=f"reference: {item.formula}") for item in layout.twin(policy)]
        always += layout.gathers(policy, learns=True)
        update = ForwardSize(rows, s.max_length)
        rank = (s.policy.r, 0.0) if lora else None
        turns = {
            # before the policy is there, whose base is as large
            "scoring": [*machine.bank(base=not machine.on_policy), *machine.scoring()] if unit.reads.rewards else [],
            "sampling": layout.cache(policy, ForwardSize(rows, s.max_prompt + s.max_new_tokens)),
            "learning": [
                *layout.activations(policy, update, checkpointing, logits=False, lora=rank),
                machine.logits(rows * (s.max_length - s.max_prompt)),
            ],
        }
        tokens = 2 * s.batch_size * s.max_length
        seconds = machine.compute(policy, tokens, operations(lora, checkpointing), logits=tokens / 2)
        return machine.stage("dpo", always, turns, learning, seconds, f"of {s.batch_size} pairs")

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort] | None:
        s, policy = unit.reads.dpo, machine.policy
        if data.examples is None or data.held_out is None:
            return None
        pairs = data.examples - data.held_out
        held_out, steps = min(s.eval_pairs, data.held_out), s.steps(pairs)
        rows = 2 * max(1, min(s.micro_batch_size, s.batch_size))
        length = data.padded(1, s.max_length, data.sampled)  # batches are of like lengths
        logits = rows * min(data.sampled, length)
        looks = -(-steps // s.eval_every) if s.eval_every else 1
        read = 2 * (pairs + held_out * (1 + looks)) + 2 * looks * s.eval_prompts
        op: Op = "learn" if s.policy.kind == "full" else "adapt"
        found = [
            loaded("policy", policy, 2),  # and written
            Effort("read", "policy", policy, rows, length, read / rows, logits=logits),
            Effort(op, "policy", policy, rows, length, 2 * s.batch_size * steps / rows, logits=logits),
        ]
        if s.eval_prompts:
            each = sampled(policy, s.eval_prompts, rows, data, s.max_new_tokens, s.max_prompt)
            found += [replace(one, times=looks * one.times) for one in each]
        if unit.reads.rewards:
            found += scored(machine.base, 2 * (pairs + held_out), len(unit.of("pm")), data, machine.longest)
        return found

    def smaller(self, reads: DPOReads) -> Iterator[str]:
        if not reads.dpo.policy.gradient_checkpointing:
            yield "dpo.policy.gradient_checkpointing=true"
        yield from halves("dpo.micro_batch_size", reads.dpo.micro_batch_size)

    def simpler(self, reads: DPOReads) -> Iterator[str]:
        if reads.dpo.policy.kind == "full":
            yield "dpo.policy.kind=lora"


STAGE = DPO()
