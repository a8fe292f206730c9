"""Stage `ppo`: align the SFT policy with one objective over the scores of its responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from morlaif.batches import Microbatches
from morlaif.memory.advice import halves
from morlaif.memory.effort import Amounts, Effort, Op, loaded, sampled, scored
from morlaif.memory.estimate import ForwardSize, Item, StageMemory
from morlaif.memory.machine import FORWARD, Machine, operations
from morlaif.rl.settings import PPOSettings
from morlaif.settings import Settings
from morlaif.stages.endings import few_ended
from morlaif.stages.scoring import Method, MethodNeeds, MethodReads
from morlaif.units.job import Job
from morlaif.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class PPOReads(MethodReads):
    ppo: PPOSettings

    @property
    def rated(self) -> tuple[int, int]:
        s = self.ppo
        looks = 1 + -(-s.steps // s.eval_every) if s.eval_every else 2
        return s.steps * s.rollouts + looks * s.eval_prompts, s.max_new_tokens


PPOJob = Job[PPOReads, MethodNeeds]


class PPO(Method[PPOReads, MethodNeeds]):
    name = "ppo"
    version = 7
    reads = PPOReads
    work = "morlaif.stages.work.ppo"
    resumes = True

    def settings(self, groups: Mapping[str, Settings], params: Mapping[str, Any]) -> dict[str, Any]:
        return {"ppo": groups["ppo"], **params}

    def on_ranks(self, reads: PPOReads) -> bool:
        return True

    def microbatches(self, reads: PPOReads, ranks: int) -> Microbatches:
        return Microbatches(
            reads.ppo.micro_batch_size, 1
        )  # the loop cuts its minibatches by length and steps by itself

    def doubts(self, unit: Unit, numbers: Mapping[str, Any]) -> Iterator[str]:
        limit = f"ppo.max_new_tokens={unit.reads.ppo.max_new_tokens}"
        return few_ended({"the rollouts": numbers.get("ended")}, unit.reads.places, limit)

    def memory(self, unit: Unit, machine: Machine) -> StageMemory | None:
        s, layout, policy = unit.reads.ppo, machine.layout, machine.policy
        length = s.max_prompt_length + s.max_new_tokens
        rollouts = -(-s.rollouts // layout.ranks)
        at_once = min(s.generation_batch_size, rollouts)
        vllm, lora = s.rollout == "vllm", s.policy.kind == "lora"
        always, learning = _policy(s, machine)
        always += machine.bank(base=not _one_base(s, machine))
        sampling = _vllm(s, machine) if vllm else layout.cache(policy, ForwardSize(at_once, length))
        if vllm and not s.vllm.sleep:
            always, sampling = [*always, *sampling], []
        always += layout.gathers(policy, learns=True)

        update = ForwardSize(min(s.micro_batch_size, rollouts), length)
        rank, checkpointing = (s.policy.r, 0.0) if lora else None, s.policy.gradient_checkpointing
        kept = layout.activations(policy, update, checkpointing, logits=False, lora=rank)
        if s.critic.kind in ("adapter", "separate"):  # one loss: the forwards of both wait for its backward
            kept = [*kept, *(item._replace(formula=f"critic: {item.formula}") for item in kept)]
        turns = {
            "sampling": sampling,
            "scoring": machine.scoring(),
            "learning": [
                *kept,
                machine.logits(update.rows * s.max_new_tokens),
            ],
        }
        seconds = machine.generation(
            s.rollouts, at_once, s.max_new_tokens, vllm_parts=s.vllm.tensor_parallel_size if vllm else 0
        )
        if machine.kind is not None:
            seconds += machine.compute(machine.base, s.rollouts * machine.kind.max_length, FORWARD * machine.models)
        factor = 2 * FORWARD + s.epochs * operations(lora, checkpointing)
        seconds += machine.compute(policy, s.rollouts * length, factor, logits=s.rollouts * s.max_new_tokens)
        return machine.stage("ppo", always, turns, learning, seconds, f"of {s.rollouts} rollouts")

    def efforts(self, unit: Unit, machine: Machine, data: Amounts) -> Iterable[Effort]:
        s, policy, models = unit.reads.ppo, machine.policy, len(unit.of("pm"))
        new = min(s.max_new_tokens, data.response)
        yield loaded("policy", policy, 2 if s.critic.kind != "separate" else 3)  # and written
        looks = 1 + -(-s.steps // s.eval_every) if s.eval_every else 2
        for rows, times in ((s.rollouts, s.steps), (s.eval_prompts, looks)):
            for part in (
                *sampled(policy, rows, s.generation_batch_size, data, s.max_new_tokens, s.max_prompt_length),
                *scored(machine.base, rows, models, data, machine.longest),
            ):
                yield replace(part, times=times * part.times)
        micro = max(1, min(s.micro_batch_size, s.rollouts))
        length = data.padded(micro, s.max_prompt_length) + new
        if s.eval_prompts:  # the KL of the held-out answers
            times = 2 * looks * s.eval_prompts / micro
            yield Effort("read", "policy", policy, micro, length, times, logits=micro * new)
        forwards = s.steps * s.rollouts / micro
        op: Op = "learn" if s.policy.kind == "full" else "adapt"
        # Policy and critic learn first from the forward that a step's numbers were read from.
        yield Effort("read", "policy", policy, micro, length, 2 * forwards - s.steps, logits=micro * new)
        yield Effort(op, "policy", policy, micro, length, s.epochs * forwards, logits=micro * new)
        if s.critic.kind in ("separate", "adapter"):
            yield Effort("read", "policy", policy, micro, length, forwards - s.steps)
            learn: Op = "learn" if s.critic.kind == "separate" else "adapt"
            yield Effort(learn, "policy", policy, micro, length, s.epochs * forwards)

    def smaller(self, reads: PPOReads) -> Iterator[str]:
        s = reads.ppo
        if not s.policy.gradient_checkpointing:
            yield "ppo.policy.gradient_checkpointing=true"
        yield from halves("ppo.micro_batch_size", s.micro_batch_size)
        yield from halves("ppo.generation_batch_size", s.generation_batch_size)

    def simpler(self, reads: PPOReads) -> Iterator[str]:
        if reads.ppo.critic.kind == "separate":
            yield "ppo.critic.kind=shared"
        if reads.ppo.policy.kind == "full":
            yield "ppo.policy.kind=lora"


def _policy(s: PPOSettings, machine: Machine) -> tuple[list[Item], int]:
    """Policy, reference and critic; how many parameters learn."""
    layout, policy = machine.layout, machine.policy
    always: list[Item] = []
    if s.policy.kind == "lora":
        adapters, size = 2 if s.critic.kind == "adapter" else 1, policy.lora(s.policy.r)
        always += layout.frozen(policy) + layout.adapters(size, learn=adapters)
        learning = adapters * size
    else:
        always += layout.trained(policy)
        always += [item._replace(formula=f"reference: {item.formula}") for item in layout.twin(policy)]
        learning = policy.parameters
    if s.critic.kind == "separate":
        always += [item._replace(formula=f"critic: {item.formula}") for item in layout.trained(policy)]
        learning += policy.parameters
    return always, learning


def _vllm(s: PPOSettings, machine: Machine) -> list[Item]:
    """What vLLM takes of the training GPUs: the share that it is given, or at least its copy of the weights."""
    v = s.vllm
    if v.mode == "server":
        return []
    copy = machine.policy.parameters * machine.layout.element / v.tensor_parallel_size
    share = v.gpu_memory_utilization * machine.hardware.machine.device_memory * 1e9
    text = f"vLLM: {v.gpu_memory_utilization:g} of the GPU, its copy of the weights ({copy / 1e9:.1f} GB) among it"
    return [Item("cache", max(share, copy), text)]


def _one_base(s: PPOSettings, machine: Machine) -> bool:
    """Whether one frozen base carries the policy's adapter and those of the preference models."""
    adapters = machine.kind is not None and machine.kind.lora is not None
    return s.policy.kind == "lora" and adapters and machine.on_policy


STAGE = PPO()
