"""The tiny policy of `support/small_ppo.py` as fixtures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_ppo
from transformers import PreTrainedTokenizerFast

from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import PPOSettings
from morlaif.rl.trainer import PPOTrainer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return small_ppo.tokenizer()


@pytest.fixture
def small(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> SimpleNamespace:
    """All of it, and `trainer(settings, …)` that puts it together."""
    folders = iter(range(1000))

    def trainer(config: PPOSettings, made: ActorCritic | None = None, **changes: Any) -> PPOTrainer:
        usual = {"keep": tmp_path / f"keep{next(folders)}", "tokenizer": tokenizer}
        return small_ppo.trainer(config, made=made, **(usual | changes))

    return SimpleNamespace(
        tokenizer=tokenizer, llama=small_ppo.llama, gpt2=small_ppo.gpt2, prompts=small_ppo.PROMPTS,
        words=small_ppo.WORDS, settings=small_ppo.settings, reward=small_ppo.word_reward,
        objective=small_ppo.mean_objective, models=small_ppo.models, trainer=trainer,
    )  # fmt: skip
