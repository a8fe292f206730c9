"""Two tiny bases, a handful of pairs that differ in one visible thing, and their verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from morlaif.data.records import Message, Pair
from morlaif.feedback.records import Verdict
from morlaif.models.scratch import train_tokenizer
from morlaif.preference.settings import PMSettings, TrainedPM
from morlaif.presets import preset

WORDS = ("river", "stone", "cloud", "bread", "window", "garden", "letter", "train")
CONF = Path(__file__).parents[2] / "conf" / "pm"


def _chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _make_pairs(count: int, seed: int, good: str = "kindly", bad: str = "rudely") -> tuple[list[Pair], list[Verdict]]:
    """Pairs of random words, one response with `good` in it and one with `bad`; verdicts prefer `good`."""
    rng = random.Random(seed)
    pairs, verdicts = [], []
    for _ in range(count):
        texts = []
        for word in (good, bad):
            words = rng.choices(WORDS, k=rng.randint(2, 12))
            words.insert(rng.randrange(len(words) + 1), word)
            texts.append(" ".join(words))
        swap = rng.random() < 0.5
        pair = Pair.of(_chat(" ".join(rng.choices(WORDS, k=rng.randint(1, 9)))), *(texts[::-1] if swap else texts))
        pairs.append(pair)
        verdicts.append(Verdict(pair.id, 0.1 if swap else 0.9, 0.0, True, "test"))
    return pairs, verdicts


def _pm_settings(name: str = "toy", **change) -> TrainedPM:
    values = preset("pm", name)
    lora = change.pop("lora", None)
    if lora:
        values["lora"] |= lora
    return TypeAdapter(PMSettings).validate_python(values | change)


@pytest.fixture(scope="session")
def tokenizer():
    rng = random.Random(0)
    texts = [" ".join(rng.choices((*WORDS, "kindly", "rudely", "Human:", "Assistant:"), k=20)) for _ in range(50)]
    return train_tokenizer(texts, 300)


@pytest.fixture(scope="session")
def llama(tokenizer, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.12, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    return _save(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2(tokenizer, tmp_path_factory) -> Path:
    """With dropout, absolute positions and transposed weights."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.12,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    return _save(GPT2LMHeadModel(config), tokenizer, tmp_path_factory.mktemp("gpt2"))


def _save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _texts_of(pairs: Sequence[Pair]) -> tuple[list[list[Message]], list[str]]:
    """Prompts and responses of uneven lengths."""
    rows = [(pair.messages, text) for pair in pairs for text in (pair.first, pair.second)]
    return [messages for messages, _ in rows], [text for _, text in rows]


@pytest.fixture(scope="session")
def chat():
    return _chat


@pytest.fixture(scope="session")
def make_pairs():
    return _make_pairs


@pytest.fixture(scope="session")
def pm_settings():
    return _pm_settings


@pytest.fixture(scope="session")
def texts_of():
    return _texts_of
