"""Stage `ppo`: align the SFT policy with one objective over the preference models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from morlaif.data.records import load_split, prompt_id
from morlaif.errors import UserError, suggest
from morlaif.models.load import load_policy, resolve_model, save_policy
from morlaif.preference.bank import PreferenceBank
from morlaif.rl.critic import load_critic
from morlaif.rl.policy import ActorCritic, export
from morlaif.rl.settings import PPOSettings
from morlaif.rl.trainer import train
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.job import Job

ADAPTER = "adapter"  # the policy's adapter as peft writes it, where the settings ask for it


def build(job: Job) -> dict[str, Any]:
    settings: PPOSettings = job.config["ppo"]
    if job.dtype == torch.float16:
        raise UserError("hardware.dtype: float16 overflows in PPO's updates; use bfloat16 or float32")
    names = tuple(job.config["names"])
    pms = {name: job.inputs[f"pm/{name}"] for name in names}

    # 1. the reward: preference models, and the objective that makes one number of their scores
    base, _ = resolve_model(job.inputs["sft"])
    bank = PreferenceBank.load(pms, base, job.device, job.dtype)
    weights = next(folder for name, folder in job.inputs.items() if name.startswith("weigh/"))
    objective = Objective.load(weights / "weights.json", resolve(job.config["scalarizer"], names), names)

    # 2. the models: weights that learn stay in float32, whatever the computation's number format
    kept = torch.float32 if settings.policy.kind == "full" else job.dtype
    model, tokenizer = load_policy(job.inputs["sft"], dtype=kept, device=job.device)
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)  # for the value head and the adapter
        models = ActorCritic(model, settings, _critic(job, settings, pms, tokenizer))

    # 3. train
    prompts = {prompt_id(example.messages): example.messages for example in load_split(job.inputs["data"], "train")}
    result = train(
        models, tokenizer, list(prompts.values()), bank.score, names, objective, settings,
        seed=job.seed, keep=job.keep, autocast=None if job.dtype == torch.float32 else job.dtype,
        on_step=lambda row: job.progress(int(row["step"]), settings.steps, **_without(row, "step")),
    )  # fmt: skip

    # 4. leave the policy, its curve and its samples
    if settings.policy.save_adapter and isinstance(models.policy, PeftModel):
        models.policy.save_pretrained(job.out / ADAPTER)
    save_policy(export(models), tokenizer, job.out)
    _write_lines(job.out / "curve.jsonl", result.curve)
    _write_lines(job.out / "samples.jsonl", result.samples)
    first, last = result.curve[0], result.curve[-1]
    return {
        "reward": {"first": first["reward"], "last": last["reward"]},
        "kl": last["kl"],
        "length": last["length"],
        "steps": len(result.curve),
        "episodes": len(result.curve) * settings.rollouts,
        "stopped": result.stopped,
    }


def _critic(
    job: Job, settings: PPOSettings, pms: Mapping[str, Path], tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | None:
    """The separate critic, if the settings want one."""
    critic = settings.critic
    if critic.kind != "separate":
        return None
    if critic.init == "sft":
        return load_policy(job.inputs["sft"], dtype=torch.float32, device=job.device)[0]
    name = next(iter(pms)) if critic.principle is None else critic.principle
    if name not in pms:
        raise UserError(f"ppo.critic.principle: no preference model '{name}' in this run.{suggest(name, pms)}")
    return load_critic(pms[name], resolve_model(job.inputs["sft"])[0], tokenizer, job.device)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _without(row: Mapping[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != name}
