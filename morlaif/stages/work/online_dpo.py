"""`online_dpo`: one round of sampling, ranking by the arm's reward, and DPO on the best against the worst."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from morlaif import ranks, sharded
from morlaif.data.records import prompt_id
from morlaif.dpo.pairs import Pairs
from morlaif.dpo.settings import DPOSettings
from morlaif.dpo.trainer import DPOTrainer, policy_with_reference
from morlaif.errors import UserError
from morlaif.models.load import save_policy
from morlaif.online.looks import response_logprobs
from morlaif.online.pairing import Chosen, best_against, dialogue, priced
from morlaif.preference.model import Dialogue
from morlaif.rl import schedule
from morlaif.stages.online_dpo import OnlineDPOJob
from morlaif.stages.work.places import policy_of
from morlaif.stages.work.rounds import (
    Choice,
    begins,
    choice,
    curve_before,
    free,
    leave_round,
    look,
    objective_of,
    prompts_of,
    totals,
    write_lines,
)

STEPS = "steps.jsonl"  # a row for each update of the round


def build(job: OnlineDPOJob) -> dict[str, Any]:
    settings, before = job.reads.online_dpo, job.needs.before
    if job.dtype == torch.float16:
        raise UserError("hardware.dtype: float16 overflows in DPO's updates; use bfloat16 or float32")
    seed = schedule.derive_seed(job.seed, "learn", job.reads.round)
    objective = objective_of(job)
    prompts, held_out = prompts_of(job, settings)
    curve = curve_before(job, before)
    if not curve:
        curve = [{"step": 0, **look(job, begins(job), held_out, settings.sampling, objective)}]

    # 1. sample, rank, choose
    found, facts = choice(job, prompts, settings.sampling, settings.n, objective, 100)
    row = {"step": job.reads.round, **found.row()}
    values = found.values
    if settings.kl_coef:
        apart = _apart(job, found)
        row |= {"sampled/kl": apart.mean().item(), "sampled/deviation": values.std().item()}
        unit = (curve[1] if before is not None else row)["sampled/deviation"]
        values = priced(values, apart, settings.kl_coef * unit)
    chosen = best_against(
        found.samples, values, settings.pairs, length_ratio=settings.length_ratio, seed=seed
    )  # fmt: skip
    if not chosen:
        raise UserError(
            f"online_dpo: of {len(prompts)} prompts none has two responses that differ in what they are worth"
            + (f" and by less than online_dpo.length_ratio={settings.length_ratio:g}" if settings.length_ratio else "")
        )
    ranks.on_first(lambda: write_lines(job.out / "pairs.jsonl", (_row(found, one) for one in chosen)))
    better = [dialogue(found.samples[one.prompt], one.better, settings.dpo.max_length) for one in chosen]
    worse = [dialogue(found.samples[one.prompt], one.worse, settings.dpo.max_length) for one in chosen]
    pairs = Pairs.of(better, worse, torch.ones(len(chosen)))

    # 2. learn; the reference is the SFT policy, which is gone again, or the one that the round begins from
    steps = learn(job, settings.dpo, pairs, seed, reference=_of_sft(job, better, worse, settings.dpo))

    free()

    # 3. what came of it
    row |= look(job, job.out, held_out, settings.sampling, objective)
    row |= {f"reward/{kind}": value for kind, value in facts.items()} | {"pairs": len(chosen)}
    spent = totals(
        job, before or job.needs.origin, steps=steps, episodes=settings.n * len(prompts), pairs=len(chosen)
    )  # fmt: skip
    return leave_round(job, [*curve, row], spent, objective)


def learn(job: OnlineDPOJob, settings: DPOSettings, pairs: Pairs, seed: int, reference: Tensor | None) -> int:
    """DPO on `pairs` from where the round begins; leaves the policy, and says in how many updates."""
    settings = settings.model_copy(
        update={"eval_pairs": 0, "eval_prompts": 0, "eval_every": 0}
    )  # rounds look themselves
    kept = torch.float32 if settings.policy.kind == "full" else job.dtype
    computed = None if job.dtype == torch.float32 else job.dtype
    model, tokenizer = policy_of(job, begins(job), kept)
    twin = None
    if settings.policy.kind == "full" and sharded.is_sharded(next(model.parameters())):
        twin = policy_of(job, begins(job), kept)[0]
    models = policy_with_reference(model, settings, seed=seed, reference=twin, computed=computed)
    trainer = DPOTrainer(
        models, tokenizer, pairs, settings, seed=seed, keep=job.keep / "training", autocast=computed,
        accelerator=sharded.accelerator(), gather=job.hardware.zero.most_gathered, reference=reference,
    )  # fmt: skip

    def report(row: dict[str, float]) -> None:
        rest = {name: value for name, value in row.items() if name != "step"}
        job.progress(trainer.steps + int(row["step"]), 2 * trainer.steps, **rest)

    rows = trainer.run(report).curve
    trained = trainer.engine.models
    state = sharded.state_dict(trained.model, trained.model.dtype)
    ranks.on_first(lambda: save_policy(trained.model, tokenizer, job.out, state))
    ranks.on_first(lambda: write_lines(job.out / STEPS, rows))
    return len(rows)


def _apart(job: OnlineDPOJob, found: Choice) -> Tensor:
    """(P, n) log π - log π_0 of each sample at the sampling temperature: π drew it, π_0 began the first round."""
    settings = job.reads.online_dpo
    apart = torch.zeros(found.values.shape, dtype=torch.float64)
    if begins(job) == job.needs.origin:
        return apart
    prompts = [one.prompt for one in found.samples for _ in one.ids]
    responses = [ids for one in found.samples for ids in one.ids]
    logprobs = partial(
        response_logprobs, temperature=settings.sampling.temperature, rows=2 * settings.dpo.micro_batch_size,
        gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    for folder, sign in ((begins(job), 1.0), (job.needs.origin, -1.0)):
        model, tokenizer = policy_of(job, folder)
        own = logprobs(model, tokenizer, prompts, responses)
        apart += sign * torch.tensor(own, dtype=torch.float64).view_as(apart)
        del model
        free()
    return apart


def _of_sft(
    job: OnlineDPOJob, better: Sequence[Dialogue], worse: Sequence[Dialogue], settings: DPOSettings
) -> Tensor | None:
    """(N, 2) log-probabilities of the pairs under the SFT policy; None where that is what the round begins from, or
    where the reference is the round before."""
    if begins(job) == job.needs.origin or job.reads.online_dpo.reference == "previous":
        return None
    model, tokenizer = policy_of(job, job.needs.origin)
    logprobs = partial(
        response_logprobs, temperature=1.0, rows=settings.micro_batch_size, gather=job.hardware.zero.most_gathered
    )
    sides = []
    for side in (better, worse):
        prompts, responses = [one.ids[: one.start] for one in side], [one.ids[one.start :] for one in side]
        sides.append(logprobs(model, tokenizer, prompts, responses))
    del model
    free()
    return torch.tensor(sides).T.float()


def _row(found: Choice, one: Chosen) -> dict[str, Any]:
    own, values = found.samples[one.prompt], found.values[one.prompt].tolist()
    return {
        "prompt_id": prompt_id(found.prompts[one.prompt]), "messages": found.prompts[one.prompt],
        "chosen": own.texts[one.better], "rejected": own.texts[one.worse],
        "value_chosen": values[one.better], "value_rejected": values[one.worse],
    }  # fmt: skip
