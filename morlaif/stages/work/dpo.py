"""Stage `dpo`: the SFT policy learns from the arm's verdicts on pairs themselves."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from morlaif import ranks, sharded
from morlaif.data.chat import prompt_ids
from morlaif.data.records import Message, Pair, load_pairs
from morlaif.data.spool import Mapped
from morlaif.dpo.pairs import Pairs, encode
from morlaif.dpo.settings import DPOSettings
from morlaif.dpo.steered import pair_weights, plain_sides, shares_of_pairs, told_pairs
from morlaif.dpo.targets import dpo_pairs, modpo_pairs
from morlaif.dpo.trainer import DPOTrainer, policy_with_reference
from morlaif.errors import UserError
from morlaif.feedback.records import load_verdicts
from morlaif.models.load import load_tokenizer
from morlaif.naming import labelled_by
from morlaif.preference.model import Dialogue
from morlaif.preference.pairs import LabelledPairs, label_pairs
from morlaif.rl.steered import Steered, steering_of
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.stages.dpo import DPOJob
from morlaif.stages.work.places import base_of, policy_of
from morlaif.stages.work.policies import leave_policy, write_lines
from morlaif.stages.work.scoring import SharedSource, open_scores

WEIGHTS = "weights.json"  # of the artifact of `weigh`


def build(job: DPOJob) -> dict[str, Any]:
    settings: DPOSettings = job.reads.dpo
    if job.dtype == torch.float16:
        raise UserError("hardware.dtype: float16 overflows in DPO's updates; use bfloat16 or float32")
    seed = job.seed

    # 1. what is learnt from; preference models, where they are asked, are gone before the policy is there
    tokenizer = load_tokenizer(base_of(job))
    learnt = load_pairs(job.needs.respond, "train")
    pairs, facts = _table(job, tokenizer, learnt, "train")
    looked_at = load_pairs(job.needs.respond, "eval")[: settings.eval_pairs]
    held_out = _table(job, tokenizer, looked_at, "eval")[0] if looked_at else None
    plain = list({pair.prompt_id: pair.messages for pair in islice(learnt, 4 * settings.eval_prompts)}.values())
    plain = plain[: settings.eval_prompts]
    steered = _steered(job)
    prompts = plain if steered is None else [steered.told(one, steered.steering.own) for one in plain]

    # 2. the models: weights that learn stay in float32, whatever the computation's number format
    kept = torch.float32 if settings.policy.kind == "full" else job.dtype
    computed = None if job.dtype == torch.float32 else job.dtype
    model, tokenizer = policy_of(job, dtype=kept)
    twin = None
    if settings.policy.kind == "full" and sharded.is_sharded(next(model.parameters())):
        twin = policy_of(job, dtype=kept)[0]
    models = policy_with_reference(model, settings, seed=seed, reference=twin, computed=computed)

    # 3. train
    trainer = DPOTrainer(
        models, tokenizer, pairs, settings,
        seed=seed, keep=job.keep, held_out=held_out if held_out is not None and len(held_out) else None,
        prompts=prompts, plain=plain, autocast=computed,
        accelerator=sharded.accelerator(), gather=job.hardware.zero.most_gathered,
    )  # fmt: skip
    curve = trainer.run(lambda row: job.progress(int(row["step"]), trainer.steps, **_without_step(row))).curve

    # 4. leave the policy and its curve
    steering = None if steered is None else steered.steering
    leave_policy(trainer.engine, tokenizer, settings.policy.export, job.needs.sft, job.out, steering=steering)
    if ranks.is_first():
        write_lines(job.out / "curve.jsonl", curve)
    first, last = curve[0], curve[-1]
    looked: dict[str, Any] = {name: last[name] for name in ("kl", "length", "ended", "eval/accuracy") if name in last}
    return {
        "reward": {"first": first["reward"], "last": last["reward"]},
        "loss": last["loss"],
        **looked,
        "steps": len(curve),
        **facts,
    }


def _table(
    job: DPOJob, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], split: str
) -> tuple[Pairs, dict[str, int]]:
    """What is learnt from `pairs` of `split`, and how many: of them, without a usable verdict, too long."""
    reads, settings = job.reads, job.reads.dpo
    columns = [column for column in reads.layout.columns if labelled_by(column.own) in job.needs.feedback]
    ids = {pair.id for pair in pairs}
    verdicts = {
        column.name: [
            verdict
            for verdict in load_verdicts(job.needs.feedback[labelled_by(column.own)], split)
            if verdict.pair_id in ids
        ]
        for column in columns
    }

    def encoded(messages: Sequence[Message], text: str) -> Dialogue:
        return encode(tokenizer, messages, text, settings)

    if (steered := _steered(job)) is None:
        labelled = label_pairs(encoded, pairs, verdicts, job.keep)
        made = _learnt(job, pairs, labelled, list(verdicts), split)
    else:
        shares = shares_of_pairs(steered, split, len(pairs))
        labelled = label_pairs(encoded, told_pairs(steered, pairs, shares), verdicts, job.keep)
        weight = pair_weights(steered, _objective(job).select(list(verdicts)), shares)
        plain = plain_sides(
            (labelled.first, labelled.second),
            lambda row: prompt_ids(tokenizer, pairs[row].messages, settings.max_prompt),
        )
        made = dpo_pairs(labelled, weight, settings.targets == "hard", plain=plain)
    return made, {"pairs": len(made), "invalid_verdicts": sum(labelled.invalid), "cut_pairs": labelled.cut["pairs"]}


def _learnt(job: DPOJob, pairs: Sequence[Pair], labelled: LabelledPairs, names: list[str], split: str) -> Pairs:
    """`labelled` with what the arm's kind of loss wants beside; its columns are those of the reward called `names`."""
    settings, hard = job.reads.dpo, job.reads.dpo.targets == "hard"
    if job.needs.weigh is None:  # one verdict on each pair
        return dpo_pairs(labelled, torch.ones(len(names)), hard)
    objective = _objective(job)
    of_verdicts = objective.select(names)
    weight = of_verdicts.direction * of_verdicts.weight
    if settings.kind == "dpo":
        return dpo_pairs(labelled, weight, hard)
    first, second = _scores(job, pairs, split)
    if settings.kind == "rdo":
        return dpo_pairs(labelled, weight, hard, objective(first) - objective(second))
    return _modpo(job, labelled, objective, names, first - second)


def _objective(job: DPOJob) -> Objective:
    assert job.needs.weigh is not None  # of several principles, or of a reward
    whole = tuple(job.reads.names)
    return Objective.load(job.needs.weigh / WEIGHTS, resolve(job.reads.scalarizer, whole), whole)


def _steered(job: DPOJob) -> Steered | None:
    """
    Raises:
        UserError: there is one verdict on each pair, so nothing to weigh.
    """
    settings: DPOSettings = job.reads.dpo
    if settings.steer.kind == "none":
        return None
    if job.needs.weigh is None:
        raise UserError("dpo.steer.kind: weights are of two principles or more, and this arm's labels have one verdict")
    steering = steering_of(_objective(job), settings.steer, "dpo.steer")
    return None if steering is None else Steered(steering, settings.steer.alpha, job.seed)


def _modpo(job: DPOJob, labelled: LabelledPairs, objective: Objective, names: list[str], difference: Tensor) -> Pairs:
    """By the verdicts of the principles that have a weight, or of the one that the settings name.

    A preference model's raw scores are in the units of its verdicts' log-odds, so a principle's weight is that of its
    centred and scaled score over the scale.
    """
    named = job.reads.dpo.principle
    weight = objective.direction * objective.weight / objective.scale
    wanted = [name for name, own in zip(objective.names, weight.tolist(), strict=True) if own and name in names]
    own = {column.name: labelled_by(column.own) for column in job.reads.layout.columns}
    learnt = [name for name in wanted if named is None or own[name] == named]
    if not learnt:
        raise UserError(f"dpo.principle: {named or 'each'} has no weight in this arm: its verdicts would say nothing")
    columns = labelled.only([names.index(name) for name in learnt])
    places = [objective.names.index(name) for name in learnt]
    return modpo_pairs(columns, places, weight, job.reads.dpo.targets == "hard", difference)


def _scores(job: DPOJob, pairs: Sequence[Pair], split: str) -> tuple[Tensor, Tensor]:
    """(N, R) raw scores of the first and of the second responses, by the arm's reward; kept for the case of a kill."""
    file = job.keep / f"scores-{split}.pt"
    if not ranks.on_first(file.is_file):
        score = SharedSource(open_scores(job))
        messages = Mapped(lambda pair: pair.messages, pairs)
        both = [score(messages, [getattr(pair, side) for pair in pairs]).float().cpu() for side in ("first", "second")]
        del score
        gc.collect()

        def write() -> None:
            job.keep.mkdir(parents=True, exist_ok=True)
            torch.save(both, file.with_suffix(".partial"))
            file.with_suffix(".partial").replace(file)

        ranks.on_first(write)
    first, second = torch.load(file, weights_only=True)
    return first, second


def _without_step(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}
