from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from morlaif.data.chat import HH_TEMPLATE, PAD_TOKEN, decode_response, response_ids
from morlaif.errors import UserError
from morlaif.models.load import (
    fit_to_tokenizer,
    load_causal_lm,
    load_policy,
    load_tokenizer,
    point_to,
    save_policy,
    source_of,
)
from morlaif.models.place import Source
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings

TEXTS = ["A cat sat on the mat.", "Dogs hear high notes; cats do not.", "¿Qué tal? — 好的 🙂"] * 4
SHAPE = {
    "vocab_size": 320, "hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_positions": 64,
    "tie_embeddings": True, "init_std": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 320)


@pytest.fixture
def saved(tmp_path, tokenizer):
    save_policy(build_causal_lm(ScratchSettings(**SHAPE), tokenizer, seed=0), tokenizer, tmp_path)
    return tmp_path


def same_weights(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_tokenizer_spells_any_text_and_has_distinct_special_tokens(tokenizer):
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3 and None not in special
    assert tokenizer.chat_template == HH_TEMPLATE
    for text in (*TEXTS, "unseen: ÅÄÖ \t\n ½", "<|eos|> spelled out"):
        ids = response_ids(tokenizer, text)
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]
        assert decode_response(tokenizer, ids) == text


def test_tokenizer_and_weights_depend_on_their_input_alone(tokenizer):
    again = train_tokenizer(TEXTS, 320)
    assert again.get_vocab() == tokenizer.get_vocab()
    shape = ScratchSettings(**SHAPE)
    before = torch.get_rng_state()
    one, two, other = (build_causal_lm(shape, tokenizer, seed) for seed in (0, 0, 1))
    assert same_weights(one, two) and not same_weights(one, other)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left alone


def test_a_saved_policy_loads_with_transformers_alone(saved, tokenizer):
    path = source_of(saved).path
    assert source_of(saved).revision is None
    mine, theirs = load_causal_lm(path), AutoModelForCausalLM.from_pretrained(path)
    assert same_weights(mine, theirs)
    assert not mine.training
    loaded = AutoTokenizer.from_pretrained(path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == HH_TEMPLATE
    assert {file.suffix for file in (saved / "model").iterdir()} <= {".safetensors", ".json", ".jinja"}


def test_a_model_without_pad_token_grows_by_the_mean_row(tmp_path, tokenizer):
    """GPT-2 has one special token for everything; pad must become a new one, the same at every load."""
    bare = train_tokenizer(TEXTS, 320)
    size = len(bare)
    bare.pad_token = bare.eos_token
    bare.save_pretrained(tmp_path / "m")
    config = GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    # This vocabulary happens to hold a pad token, which is found again.
    tokenizer = load_tokenizer(tmp_path / "m")
    assert tokenizer.pad_token == PAD_TOKEN != tokenizer.eos_token

    tokenizer.add_special_tokens({"pad_token": "<|another pad|>"})
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / "m") for _ in range(2)]
    old = models[0].get_input_embeddings().weight.detach().clone()
    for model in models:
        fit_to_tokenizer(model, tokenizer)
    assert same_weights(*models)
    grown = models[0].get_input_embeddings().weight
    assert grown.shape[0] == size + 1
    assert torch.equal(grown[:size], old)
    assert torch.allclose(grown[size], old.mean(0))
    assert models[0].config.pad_token_id == tokenizer.pad_token_id
    assert models[0].get_output_embeddings().weight is grown  # still tied


def test_a_pointer_means_the_untouched_base(saved, tmp_path):
    base = str(saved / "model")
    other = tmp_path / "artifact"
    other.mkdir()
    point_to(other, Source(base, trust_remote_code=True, attention="eager"))
    assert (source_of(other).path, source_of(other).revision) == (base, None)
    written = json.loads((other / "model.json").read_text())
    assert written["attention"] == "eager" and "trust_remote_code" not in written, "no file may allow code"
    model, tokenizer = load_policy(other, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert tokenizer.pad_token != tokenizer.eos_token


def test_clear_errors(tmp_path, saved, tokenizer):
    with pytest.raises(UserError, match=r"model='.*nowhere': no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_causal_lm(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no model here"):
        source_of(tmp_path / "empty")
    (saved / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.path=.*no weights in this folder; expected model\.safetensors"):
        load_causal_lm(Source(str(saved / "model"), key="model.path"))
    with pytest.raises(UserError, match="the hub's cache does not have it"):
        load_tokenizer("no-such-organisation/no-such-model")  # offline: the hub is not asked
    with pytest.raises(UserError, match=r"vocab_size 300 is below the tokenizer's"):
        build_causal_lm(ScratchSettings(**SHAPE | {"vocab_size": 300}), tokenizer, 0)


def test_a_tokenizer_without_eos_is_refused(saved):
    config = saved / "model" / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "eos_token"}))
    with pytest.raises(UserError, match="EOS"):
        load_tokenizer(saved / "model")
