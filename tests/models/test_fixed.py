"""Sampling by tensors that stay where they are gives the ids that a growing cache gives."""

from __future__ import annotations

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from morlaif.models import graphs
from morlaif.models.decode import Cached, Fixed, decoder
from morlaif.models.generate import generate
from morlaif.models.scratch import train_tokenizer

NEW = 20
PROMPTS = [[5 + (7 * row + 3 * place) % 250 for place in range(1 + 5 * row % 17)] for row in range(10)]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The quick brown fox jumps over the lazy dog."] * 5, 300)


def built(kind: str, tokenizer):
    torch.manual_seed(1)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if kind.startswith("gemma3"):
        window = 64 if kind == "gemma3" else 6
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": window, "head_dim": 8}
        return Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=len(tokenizer), **SIZES, **ids, **layers))
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), sliding_window=6, **SIZES, **ids))
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES, **ids))
    if kind == "llama":
        return model
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return adapted.merge_and_unload() if kind == "merged" else adapted.base_model.model


def sampled(model, tokenizer, fixed, temperature=1.0, stop=(), top_p=1.0):
    logprobs: list[list[float]] = []
    rows = generate(
        model, tokenizer, PROMPTS, max_new_tokens=NEW, temperature=temperature, top_p=top_p, stop=stop, batch_size=8,
        generator=torch.Generator().manual_seed(2), logprobs=logprobs if temperature else None, fixed=fixed,
    )  # fmt: skip
    return rows, [value for row in logprobs for value in row]


def common(tokenizer, rows) -> list[str]:
    """Two texts of a letter that end many of the rows at different steps."""
    texts = [tokenizer.decode(row) for row in rows]
    letters = sorted({c for text in texts for c in text if c.isascii() and c.isalpha()})
    return sorted(letters, key=lambda c: abs(sum(c in text for text in texts) - len(texts) // 3))[:2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gemma3, window", "mistral", "adapted", "merged"])
def test_fixed_and_growing_caches_sample_the_same_ids(kind, tokenizer):
    model = built(kind, tokenizer)
    assert isinstance(decoder(model, 40, fixed=True), Fixed)
    assert type(decoder(model, 40)) is Cached, "on a CPU nothing is recorded"
    free, _ = sampled(model, tokenizer, False)
    stop = common(tokenizer, free)
    for how in ({"temperature": 0.0}, {}, {"stop": stop, "temperature": 0.8, "top_p": 0.9}):
        (one, seen), (other, known) = (sampled(model, tokenizer, fixed, **how) for fixed in (True, False))
        assert one == other
        assert seen == pytest.approx(known, abs=1e-4)
    lengths = {len(row) for row in one}
    assert len(lengths) > 1, "rows end at different steps"


def test_a_model_whose_cache_cannot_stay_keeps_the_growing_one(tokenizer):
    """Positions that are no rotations."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2))
    assert type(decoder(model, 40, fixed=True)) is Cached


class Recorded:
    """In place of a graph: what would be recorded is run at each replay."""

    def __init__(self, step):
        self.step, self.result, self.replays = step, torch.empty(0), 0

    def replay(self):
        self.replays += 1
        found = self.step()
        self.result.resize_(found.shape).copy_(found)


@pytest.mark.slow
def test_a_recorded_step_is_run_again_for_each_token_but_the_first_two(tokenizer, monkeypatch):
    made: list[Recorded] = []

    def record(step, device):
        made.append(Recorded(step))
        return made[-1], made[-1].result

    model = built("llama", tokenizer)
    expected, _ = sampled(model, tokenizer, False)
    monkeypatch.setattr(graphs, "on", lambda device: True)
    monkeypatch.setattr(graphs, "record", record)
    assert sampled(model, tokenizer, None)[0] == expected
    steps = [max(map(len, batch)) for batch in (sorted(expected, key=len)[-8:], expected)]
    assert len(made) == 2 and made[0].replays == steps[0] - 2, "once for each batch; a prompt and a first token before"
    monkeypatch.setattr(graphs, "enabled", False)
    assert type(decoder(model, 40)) is Cached


@pytest.mark.slow
def test_where_recording_fails_sampling_goes_on_and_says_so_once(tokenizer, monkeypatch, caplog):
    def record(step, device):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = built("llama", tokenizer)
    expected, _ = sampled(model, tokenizer, False)
    monkeypatch.setattr(graphs, "on", lambda device: True)
    monkeypatch.setattr(graphs, "record", record)
    with caplog.at_level(logging.WARNING):
        assert [sampled(model, tokenizer, None)[0] for _ in range(2)] == [expected] * 2
    (line,) = caplog.messages
    assert "could not be recorded" in line and "\n" not in line
    assert type(decoder(model, 40)) is Cached, "and is not tried again"
