"""Pairs of words for the tiny policy of `small_ppo.py`, and a run of DPO on them."""

from __future__ import annotations

from pathlib import Path

import small_ppo
import torch

from morlaif.dpo.pairs import Pairs, Preference, pairs_of
from morlaif.dpo.settings import DPOSettings
from morlaif.dpo.trainer import DPOTrainer, policy_with_reference
from morlaif.presets import preset

SMALL = {
    "batch_size": 8, "micro_batch_size": 3, "max_length": 24, "max_new_tokens": 6,
    "eval_every": 0, "eval_pairs": 0, "eval_prompts": 0, "max_steps": 6, "checkpoint_every": 0,
}  # fmt: skip


def settings(**changes) -> DPOSettings:
    rate = {"optimizer": {"learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant"}}
    return DPOSettings(**preset("dpo", "toy", **(SMALL | rate | changes)))


def rows(target=0.8, count=24) -> list[Preference]:
    """Prompts, a response of one to four words, one of two words."""
    words = small_ppo.WORDS
    return [
        Preference(
            small_ppo.PROMPTS[i % 12], " ".join(words[(3 * i + j) % 29] for j in range(1 + i % 4)),
            f"{words[i % 29]} w2", target,
        )
        for i in range(count)
    ]  # fmt: skip


def pairs(config: DPOSettings, **more) -> Pairs:
    return pairs_of(small_ppo.tokenizer(), rows(**more), config)


def trainer(config: DPOSettings, keep: Path, table: Pairs | None = None, model=None, reference=None, **more):
    made = policy_with_reference(small_ppo.llama() if model is None else model, config, seed=1, reference=reference)
    learnt = pairs(config) if table is None else table
    return DPOTrainer(made, small_ppo.tokenizer(), learnt, config, **({"seed": 3, "keep": keep} | more))


def weights(made) -> torch.Tensor:
    return torch.cat([value.flatten() for value in made.trained_state().values()])
