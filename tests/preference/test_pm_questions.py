"""Several questions in one pass are each question alone, whatever a layer may see: against the model's own forward."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BloomConfig

from morlaif.errors import UserError
from morlaif.preference.kinds import Conditioned, Lora
from morlaif.preference.model import Dialogue, pad_batch
from morlaif.preference.questions import check_questions, question_states
from morlaif.preference.split import SplitTrunk

WINDOW = 6
SIZE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
CONFIGS = {
    "gemma2": {"sliding_window": WINDOW, "layer_types": MIXED},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": MIXED},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "phi3": {"sliding_window": WINDOW},
    "llama": {},
}
ROWS = [Dialogue([7, 9, 3, 4, 5, 11, 8, 6, 13, 12, 10, 21, 3], 6), Dialogue([7, 5, 4, 9], 2)]
QUESTIONS = [[17, 18, 19, 3], [23], [30, 31, 32, 33, 34, 35, 36, 37, 3]]


def made(kind: str, **change):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZE | CONFIGS[kind] | change, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # as large as those of a trained model: attention has a say
            weight.add_(torch.randn_like(weight) * 0.3)
    return model


def alone(model, row: Dialogue, question: list[int]) -> torch.Tensor:
    trunk = getattr(model, model.base_model_prefix)
    return trunk(input_ids=torch.tensor([row.ids + question]), use_cache=False).last_hidden_state[0, -1]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_each_question_is_read_as_if_alone(kind: str, how: str) -> None:
    if (kind, how) == ("gemma2", "sdpa"):
        pytest.skip("as a classifier it has eager attention alone")
    model = made(kind, attn_implementation=how)
    assert model.config._attn_implementation == how
    found = question_states(model, pad_batch(ROWS, 0), QUESTIONS)
    wanted = torch.stack([torch.stack([alone(model, row, question) for question in QUESTIONS]) for row in ROWS])
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4), (found - wanted).abs().max()
    check_questions(model)
    if kind != "llama":
        model.config.sliding_window = 10_000
        wider = torch.stack([torch.stack([alone(model, row, question) for question in QUESTIONS]) for row in ROWS])
        assert not torch.allclose(wider, wanted, atol=1e-2), "the window matters here"


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_a_split_trunk_and_read_places_leave_windows_alone(kind: str) -> None:
    from morlaif.preference.model import pooled_states

    model = made(kind)
    batch = pad_batch(ROWS, 0)
    split = SplitTrunk(made(kind), 2)
    halves = split.upper(split.lower(batch.ids))
    for b, row in enumerate(ROWS):
        own = getattr(model, model.base_model_prefix)(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        assert torch.allclose(halves[b, : len(row.ids)], own, atol=1e-4)
        last = pooled_states(model, batch, "last")[b]
        assert torch.allclose(last, own[-1], atol=1e-4)


def test_what_no_mask_parts_is_refused() -> None:
    model = made("llama")
    model.config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    with pytest.raises(UserError, match=r"pm=conditioned: .*'linear_attention'.*use pm=heads"):
        check_questions(model)
    alibi = AutoModelForSequenceClassification.from_config(
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2, num_labels=1, pad_token_id=0)
    )
    with pytest.raises(UserError, match=r"pm=conditioned: Bloom.*use pm=heads"):
        check_questions(alibi)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "jamba"}, "recurrent layers"),
        ({"model_type": "qwen3_5_text"}, "recurrent layers"),
        ({"model_type": "x", "text_config": {"model_type": "qwen3_next"}}, "recurrent layers"),
        ({"model_type": "bloom"}, "no positions"),
        ({"model_type": "mpt"}, "no positions"),
        ({"model_type": "falcon", "alibi": True}, "no positions"),
        ({"model_type": "falcon", "alibi": False}, None),
        ({"model_type": "gpt_neo", "attention_types": [[["global", "local"], 1]]}, "no positions"),
        ({"model_type": "gemma3_text"}, None),
        ({"model_type": "llama"}, None),
    ],
)
def test_a_base_is_refused_by_its_config(config, why) -> None:
    """What `check_questions` would find, before anything is built."""
    found = Conditioned(None).refuses(config)
    assert found is None if why is None else why in found
    assert Lora(None).refuses(config) is None
