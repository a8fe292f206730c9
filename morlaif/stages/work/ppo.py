"""Stage `ppo`: align the SFT policy with one objective over the scores of its responses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.records import different_prompts, load_split
from morlaif.errors import UserError, suggest
from morlaif.evaluation.kept import kept_folder
from morlaif.models.load import point_to_adapter, save_adapter, save_policy
from morlaif.preference.kinds import leaves_network
from morlaif.preference.report import read_report
from morlaif.rl.critic import load_adapter_critic, load_critic
from morlaif.rl.policy import ActorCritic
from morlaif.rl.schedule import hold_out
from morlaif.rl.settings import PPOSettings
from morlaif.rl.trainer import PPOTrainer
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.ppo import PPOJob
from morlaif.stages.work.places import base_of, pm_base_of, policy_of
from morlaif.stages.work.scoring import open_scores

OBJECTIVE = "objective.json"  # what the objective has learnt, where it learns
DIAGNOSTICS = "diagnostics.jsonl"  # a row for each step of the curve, with its lists and tables


def build(job: PPOJob) -> dict[str, Any]:
    settings: PPOSettings = job.reads.ppo
    if job.dtype == torch.float16:
        raise UserError("hardware.dtype: float16 overflows in PPO's updates; use bfloat16 or float32")
    names = tuple(job.reads.names)
    pms = job.needs.pm

    # 1. the models: weights that learn stay in float32, whatever the computation's number format
    kept = torch.float32 if settings.policy.kind == "full" else job.dtype
    computed = None if job.dtype == torch.float32 else job.dtype
    model, tokenizer = policy_of(job, dtype=kept)
    reference = None
    if settings.policy.kind == "full" and sharded.is_sharded(next(model.parameters())):
        reference = policy_of(job, dtype=kept)[0]
    with torch.random.fork_rng(devices=[job.device] if job.device.type == "cuda" else []):  # else of every GPU
        torch.manual_seed(job.seed)  # for the value head and the adapter
        critic = _critic(job, settings, pms, model, tokenizer)
        models = ActorCritic(model, settings, critic, reference, computed=computed)

    # 2. the reward: scores, and the objective that makes one number of them. Preference models that are adapters on the
    # SFT model score on the policy's own frozen base, which a whole policy does not keep
    scores = open_scores(job, shared=models.model if settings.policy.kind == "lora" else None)
    objective = Objective.load(job.needs.weigh / "weights.json", resolve(job.reads.scalarizer, names), names)

    # 3. train
    different = different_prompts(load_split(job.needs.data, "train"))
    prompts, held_out = hold_out(different, settings.eval_prompts, job.seed)
    trainer = PPOTrainer(
        models, tokenizer, prompts, scores, names, objective, settings,
        seed=job.seed, keep=job.keep, held_out=held_out, autocast=computed,
        accelerator=sharded.accelerator(), gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    result = trainer.run(lambda row: job.progress(int(row["step"]), settings.steps, **_without(row, "step")))

    # 4. leave the policy, what its objective learnt, its curve and its samples
    if result.other is not None:
        other = "best" if settings.keep == "last" else "last"
        _leave(trainer, job.needs.sft, job.out / other, result.other)
    for step in result.kept:
        _leave(trainer, job.needs.sft, kept_folder(job.out, step), trainer.kept(step))
    _leave(trainer, job.needs.sft, job.out)
    if ranks.is_first():
        if objective.stateful:
            (job.out / OBJECTIVE).write_text(json.dumps(objective.state_dict(), indent=2) + "\n")
        _write_lines(job.out / "curve.jsonl", result.curve)
        steps = zip(result.curve, result.details, strict=True)
        _write_lines(job.out / DIAGNOSTICS, ({"step": row["step"]} | details for row, details in steps))
        _write_lines(job.out / "samples.jsonl", result.samples)
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


def _leave(trainer: PPOTrainer, sft: Path, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the policy into `folder` (with the learnt `weights` instead of its own), as the settings want it."""
    export = trainer.settings.policy.export
    models, own = trainer.engine.models, None
    if weights is not None:
        own = trainer.engine.weights()
        trainer.engine.load_weights(weights)
    if ranks.is_first():
        folder.mkdir(parents=True, exist_ok=True)
    if export in ("adapter", "both"):
        with sharded.gathered(models.groups()["policy"]):
            ranks.on_first(lambda: save_adapter(cast(PeftModel, models.policy), trainer.tokenizer, folder))
    if export == "adapter":
        ranks.on_first(lambda: point_to_adapter(folder, sft))
    else:
        state = sharded.state_dict(models.model, models.model.dtype)
        ranks.on_first(lambda: save_policy(models.model, trainer.tokenizer, folder, state))
    if own is not None:
        trainer.engine.load_weights(own)


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


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
