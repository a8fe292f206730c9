"""A tiny policy and pairs of words for it, of `support/small_ppo.py`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import small_ppo
import torch

from morlaif.dpo.pairs import Preference, pairs_of
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


@pytest.fixture
def small(tmp_path) -> SimpleNamespace:
    tokenizer = small_ppo.tokenizer()

    def trainer(config: DPOSettings, pairs=None, model=None, keep="keep", **more) -> DPOTrainer:
        model = small_ppo.llama() if model is None else model
        made = policy_with_reference(model, config, seed=1)
        table = pairs_of(tokenizer, rows(), config) if pairs is None else pairs
        return DPOTrainer(made, tokenizer, table, config, **({"seed": 3, "keep": tmp_path / keep} | more))

    return SimpleNamespace(
        tokenizer=tokenizer, settings=settings, rows=rows, trainer=trainer, llama=small_ppo.llama,
        prompts=small_ppo.PROMPTS, pairs=lambda config, **more: pairs_of(tokenizer, rows(**more), config),
        weights=lambda made: torch.cat([value.flatten() for value in made.trained_state().values()]),
    )  # fmt: skip
