"""The run of `support/small_dpo.py` as a fixture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import small_dpo
import small_ppo


@pytest.fixture
def small(tmp_path) -> SimpleNamespace:
    def trainer(config, pairs=None, model=None, keep="keep", **more):
        return small_dpo.trainer(config, tmp_path / keep, pairs, model, **more)

    return SimpleNamespace(
        tokenizer=small_ppo.tokenizer(), settings=small_dpo.settings, rows=small_dpo.rows, trainer=trainer,
        llama=small_ppo.llama, prompts=small_ppo.PROMPTS, pairs=small_dpo.pairs, weights=small_dpo.weights,
    )  # fmt: skip
