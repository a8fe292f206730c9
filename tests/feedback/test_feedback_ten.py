"""A 10 of two tokens, as a model that runs here says it."""

from __future__ import annotations

import math

import pytest
import torch

from morlaif.data.chat import prompt_ids
from morlaif.feedback.local import NumberModel, Stem
from morlaif.feedback.settings import HfSettings
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.presets import preset

SIZES = {"layers": 1, "heads": 2, "intermediate_size": 16, "max_positions": 512, "tie_embeddings": True}


def engine_of(folder, texts: list[str]) -> NumberModel:
    scratch = ScratchSettings(vocab_size=300, hidden_size=16, init_std=0.4, **SIZES)
    tokenizer = train_tokenizer(texts, 300)
    build_causal_lm(scratch, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return NumberModel.load(HfSettings(**preset("feedback", "hf") | {"path": str(folder), "device": "cpu"}), highest=10)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Its tokenizer has single digits alone."""
    return engine_of(tmp_path_factory.mktemp("digits"), ["0 1 2 3 4 5 6 7 8 9 how good is it " * 3])


def plain(engine: NumberModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return engine.model(torch.tensor([ids])).logits[0, -1].softmax(-1)


def spells(engine: NumberModel, text: str) -> list[int]:
    return [i for i in range(len(engine.tokenizer)) if engine.tokenizer.decode([i]).strip() == text]


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_one_becomes_is_read_after_it(apart, goes_on, monkeypatch):
    if not goes_on:
        monkeypatch.setattr(apart, "goes_on", lambda stems, room: False)
    assert not spells(apart, "10")
    texts = ["how good is it", "how good is it 7 3", "0 0 1"]
    stems = [
        apart.stem([[{"role": "user", "content": text}] for text in texts[:2]]),
        apart.stem([[{"role": "user", "content": texts[2]}]]),
    ]
    found = [row for rows in apart.logprobs(stems) for row in rows]
    for text, row in zip(texts, found, strict=True):
        ids = prompt_ids(apart.tokenizer, [{"role": "user", "content": text}])
        first = plain(apart, ids)
        one = max(spells(apart, "1"), key=lambda i: first[i].item())
        after = plain(apart, [*ids, one])
        raw = apart.tokenizer.convert_ids_to_tokens
        digits = [i for d in "0123456789" for i in spells(apart, d) if not raw(i).startswith("Ġ")]
        p_one = sum(first[i].item() for i in spells(apart, "1"))
        zero = sum(after[i].item() for i in spells(apart, "0") if not raw(i).startswith("Ġ"))
        assert math.exp(row[9]) == pytest.approx(p_one * zero, abs=1e-6)
        assert math.exp(row[0]) == pytest.approx(p_one * (1 - sum(after[i].item() for i in digits)), abs=1e-6)
        assert math.exp(row[6]) == pytest.approx(sum(first[i].item() for i in spells(apart, "7")), abs=1e-6)


def test_a_ten_that_is_one_token_is_read_as_one(tmp_path):
    engine = engine_of(tmp_path, ["10 " * 50 + "1 2 3 4 5 6 7 8 9 how good"] * 3)
    assert (tens := spells(engine, "10"))
    ids = prompt_ids(engine.tokenizer, [{"role": "user", "content": "how good"}])
    (((*_, ten),),) = engine.logprobs([Stem(ids[:-1], [ids[-1:]])])
    assert math.exp(ten) == pytest.approx(sum(plain(engine, ids)[i].item() for i in tens), abs=1e-6)
