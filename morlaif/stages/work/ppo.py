"""Stage `ppo`: align the SFT policy with one objective over the scores of its responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.records import different_prompts, load_split
from morlaif.errors import UserError, suggest
from morlaif.evaluation.kept import kept_folder
from morlaif.preference.kinds import leaves_network
from morlaif.preference.report import read_report
from morlaif.rl.critic import load_adapter_critic, load_critic
from morlaif.rl.policy import ActorCritic
from morlaif.rl.schedule import hold_out
from morlaif.rl.settings import PPOSettings
from morlaif.rl.steered import Steered, steering_of
from morlaif.rl.trainer import PPOTrainer
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.ppo import PPOJob
from morlaif.stages.work.places import base_of, pm_base_of, policy_of
from morlaif.stages.work.policies import leave_policy, write_lines
from morlaif.stages.work.scoring import open_scores

OBJECTIVE = "objective.json"  # what the objective has learnt, where it learns
DIAGNOSTICS = "diagnostics.jsonl"  # a row for each step of the curve, with its lists and tables


def build(job: PPOJob) -> dict[str, Any]:
    settings: PPOSettings = job.reads.ppo
    if job.dtype == torch.float16:
        raise UserError("hardware.dtype: float16 overflows in PPO's updates; use bfloat16 or float32")
    names = tuple(job.reads.names)
    pms = job.needs.pm

    # 1. what it is trained on: an objective, of one policy for all weights with how these are told
    objective = Objective.load(job.needs.weigh / "weights.json", resolve(job.reads.scalarizer, names), names)
    steering = steering_of(objective, settings.steer)

    # 2. the models: weights that learn stay in float32, whatever the computation's number format
    kept = torch.float32 if settings.policy.kind == "full" else job.dtype
    computed = None if job.dtype == torch.float32 else job.dtype
    model, tokenizer = policy_of(job, dtype=kept)
    reference = None
    if settings.policy.kind == "full" and sharded.is_sharded(next(model.parameters())):
        reference = policy_of(job, dtype=kept)[0]
    with torch.random.fork_rng(devices=[job.device] if job.device.type == "cuda" else []):  # else of every GPU
        torch.manual_seed(job.seed)  # for the value head and the adapter
        critic = _critic(job, settings, pms, model, tokenizer)
        parts = len(steering.names) if steering is not None and steering.kind == "lora" else 0
        models = ActorCritic(model, settings, critic, reference, computed=computed, steered=parts)

    # 3. the scores. Preference models that are adapters on the SFT model score on the policy's own frozen base, which a
    # whole policy does not keep
    scores = open_scores(job, shared=models.model if settings.policy.kind == "lora" else None)

    # 4. train
    different = different_prompts(load_split(job.needs.data, "train"))
    prompts, held_out = hold_out(different, settings.eval_prompts, job.seed)
    trainer = PPOTrainer(
        models, tokenizer, prompts, scores, names, objective, settings,
        seed=job.seed, keep=job.keep, held_out=held_out, autocast=computed,
        accelerator=sharded.accelerator(), gather=job.hardware.zero.most_gathered,
        steered=None if steering is None else Steered(steering, settings.steer.alpha, job.seed, models.parts),
    )  # fmt: skip
    result = trainer.run(lambda row: job.progress(int(row["step"]), settings.steps, **_without(row, "step")))

    # 5. leave the policy, what its objective learnt, its curve and its samples
    left = trainer.engine, tokenizer, settings.policy.export, job.needs.sft
    if result.other is not None:
        leave_policy(*left, job.out / ("best" if settings.keep == "last" else "last"), result.other, steering)
    for step in result.kept:
        leave_policy(*left, kept_folder(job.out, step), trainer.kept(step), steering)
    leave_policy(*left, job.out, steering=steering)
    if ranks.is_first():
        if objective.stateful:
            (job.out / OBJECTIVE).write_text(json.dumps(objective.state_dict(), indent=2) + "\n")
        write_lines(job.out / "curve.jsonl", result.curve)
        steps = zip(result.curve, result.details, strict=True)
        write_lines(job.out / DIAGNOSTICS, ({"step": row["step"]} | details for row, details in steps))
        write_lines(job.out / "samples.jsonl", result.samples)
    first, last = result.curve[0], result.curve[-1]
    return {
        "reward": {"first": first["reward"], "last": last["reward"]},
        "kl": last["kl"],
        "length": last["length"],
        "ended": last["ended"],
        "steps": len(result.curve),
        "episodes": len(result.curve) * settings.rollouts,
        "stopped": result.stopped,
        "best_step": result.best,
    }


def _critic(
    job: PPOJob,
    settings: PPOSettings,
    pms: Mapping[str, Path],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> PreTrainedModel | None:
    """The critic where it is more than a new head or a new adapter on the policy's trunk."""
    critic = settings.critic
    if critic.init == "sft":
        separate = critic.kind == "separate"
        return policy_of(job, dtype=torch.float32)[0] if separate else None
    if not pms:
        raise UserError("ppo.critic.init=pm: this run's reward has no preference model to begin from; use init=sft")
    name = next(iter(pms)) if critic.principle is None else critic.principle
    if name not in pms:
        raise UserError(f"ppo.critic.principle: no preference model '{name}' in this run.{suggest(name, pms)}")
    if not leaves_network(read_report(name, pms[name]).kind):
        raise UserError(f"ppo.critic.init=pm: '{name}' is a model from elsewhere; use init=sft")
    base = base_of(job)
    if critic.kind == "adapter":
        return load_adapter_critic(pms[name], base, model, settings)
    return load_critic(pms[name], base, tokenizer, job.device, pm_base_of(job))


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
