"""A judge whose layers see a window alone reads shared prompts as it reads each whole."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from morlaif.feedback.sources.hf import LetterModel, Stem

SIZE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "sliding_window": 6,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
KINDS = {
    "gemma2": {"layer_types": MIXED}, "gemma3_text": {"layer_types": MIXED}, "mistral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
}  # fmt: skip


class Letters:
    """A tokenizer that says A or B with every token."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 64

    def decode(self, ids: list[int]) -> str:
        return "AB"[ids[0] % 2]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_shared_prefixes_are_read_as_the_whole(kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZE | KINDS[kind])).eval()
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 0.3)
    stems = [
        Stem([7, 9, 3, 4, 5, 11, 8, 6, 13, 12, 10, 21, 3], [[17, 18, 19, 3, 4, 5, 6, 7, 8], [23]]),
        Stem([7, 5, 4], [[9, 11], [30, 31, 32]]),
    ]
    engine = LetterModel(model, Letters(), batch_size=8, answer_of=lambda said: said)
    found = [gap for gaps in engine.gaps(stems) for gap in gaps]
    wanted = []
    for stem in stems:
        for ending in stem.endings:
            last = model(input_ids=torch.tensor([stem.prefix + ending])).logits[0, -1]
            wanted.append(float(last[0::2].logsumexp(0) - last[1::2].logsumexp(0)))
    assert found == pytest.approx(wanted, abs=1e-3)
