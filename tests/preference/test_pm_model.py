"""Pooling, padding, tokenization and bases: where preference models go wrong unseen."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from artifacts import dialogue_ids
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from morlaif.models.load import load_tokenizer
from morlaif.preference.model import (
    Dialogue,
    PaddedBatch,
    draw_head,
    fingerprint,
    load_classifier,
    pad_batch,
    pool,
    score_batch,
    tokenize,
)  # fmt: skip

ROWS = [Dialogue(list(range(5, 5 + n)), start) for n, start in ((9, 4), (3, 1), (14, 6), (9, 2))]


def classifier(path: Path, seed: int = 0):
    tokenizer = load_tokenizer(path)
    model = load_classifier(path, tokenizer)
    with torch.no_grad():
        model.score.weight.copy_(draw_head(model, torch.Generator().manual_seed(seed)))
    return model, tokenizer


def test_pooling_reads_the_last_real_token_or_the_response() -> None:
    states = torch.arange(2 * 5 * 1.0).view(2, 5, 1)
    batch = PaddedBatch(torch.zeros(2, 5, dtype=torch.long), torch.tensor([1, 2]), torch.tensor([3, 5]))
    for how, want in (("last", [2, 9]), ("mean", [1.5, 8])):
        assert pool(states, batch, how).flatten().tolist() == want


@pytest.mark.parametrize("how", ["last", "mean"])
@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_padding_never_moves_a_score(base: str, how: str, request) -> None:
    model, tokenizer = classifier(request.getfixturevalue(base))
    with torch.no_grad():
        together = score_batch(model, pad_batch(ROWS, tokenizer.pad_token_id), how)
        alone = [score_batch(model, pad_batch([row], tokenizer.pad_token_id), how) for row in ROWS]
        other_pad = score_batch(model, pad_batch(ROWS, tokenizer.eos_token_id), how)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(other_pad, together, atol=1e-6, rtol=0)  # a pad that is EOS hides nothing


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_last_pooling_is_what_transformers_computes(base: str, request) -> None:
    model, tokenizer = classifier(request.getfixturevalue(base))
    batch = pad_batch(ROWS, tokenizer.pad_token_id)
    mask = torch.arange(batch.ids.shape[1]) < batch.lengths.unsqueeze(1)
    with torch.no_grad():
        want = model(input_ids=batch.ids, attention_mask=mask.long()).logits[:, 0]
        torch.testing.assert_close(score_batch(model, batch, "last"), want, atol=1e-5, rtol=0)


def test_scoring_has_no_dropout(gpt2: Path) -> None:
    model, tokenizer = classifier(gpt2)
    assert model.config.embd_pdrop > 0
    batch = pad_batch(ROWS, tokenizer.pad_token_id)
    with torch.no_grad():
        assert torch.equal(score_batch(model, batch, "last"), score_batch(model, batch, "last"))


def test_text_is_cut_at_the_left_of_the_prompt(tokenizer, chat) -> None:
    messages, response = chat("river stone cloud bread window garden letter train " * 4), "kindly stone river"
    whole = tokenize(tokenizer, messages, response, 512)
    short = tokenize(tokenizer, messages, response, 40)
    answer = whole.ids[whole.start :]
    assert short.ids[short.start :] == answer and answer[-1] == tokenizer.eos_token_id
    header = tokenize(tokenizer, chat("x"), response, 512).ids[:4]
    assert 15 < short.start <= 20 and short.ids[:4] == whole.ids[:4] == header, "half of the room, the header whole"
    assert (short.prompt_cut, short.response_cut) == (whole.start - short.start, 0)
    assert (whole.prompt_cut, whole.response_cut) == (0, 0)
    assert whole.ids == dialogue_ids(tokenizer, messages, response, 512)


def test_a_base_without_a_pad_token_of_its_own(tokenizer, tmp_path: Path) -> None:
    """GPT-2 as published: 1 row fewer than the tokenizer that was given a pad token."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|a new one|>"})
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer) - 1, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_classifier(tmp_path, tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().weight.isfinite().all()
    again = load_classifier(tmp_path, tokenizer)
    assert fingerprint(again) == fingerprint(model)


def test_fingerprint_belongs_to_the_base_alone(llama: Path, gpt2: Path) -> None:
    model, _ = classifier(llama, seed=1)
    before = fingerprint(model)
    assert before == fingerprint(classifier(llama, seed=2)[0]) != fingerprint(classifier(gpt2)[0])
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], modules_to_save=["score"]))
    assert fingerprint(model) == before
    assert fingerprint(load_classifier(llama, load_tokenizer(llama), dtype=torch.bfloat16)) == before
