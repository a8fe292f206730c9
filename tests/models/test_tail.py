"""The last layer may leave out what nobody reads: states, gradients and everything else stay the same."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from morlaif.models import tail
from morlaif.models.tail import Places, last_layer, prepare, states_at

SMALL = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4,
}  # fmt: skip
BLOCKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **SMALL)),
}
OTHERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, n_positions=32, **SMALL)),
    "mistral, window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, **SMALL, sliding_window=3)),
    "qwen3, normed queries": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **SMALL)),
    "mixture of experts": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, **SMALL, num_local_experts=2)),
}
CHOSEN = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0, 0]], dtype=torch.bool)
IDS = torch.randint(3, 40, (3, 7), generator=torch.Generator().manual_seed(0))


def made(build):
    torch.manual_seed(0)
    model = build().eval()
    for weight in model.parameters():  # norms that scale and biases that count
        if weight.dim() == 1:
            weight.data.add_(torch.randn_like(weight) * 0.3)
    return model


def read(model, ids, places):
    trunk = getattr(model, model.base_model_prefix)
    return states_at(model, places, lambda: trunk(input_ids=ids, use_cache=False).last_hidden_state)


def whole(model, ids, places):
    trunk = getattr(model, model.base_model_prefix)
    return places.take(trunk(input_ids=ids, use_cache=False).last_hidden_state)


def with_gradients(model, states):
    model.zero_grad()
    states.square().sum().backward()
    return states.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("name", [*BLOCKS, *OTHERS])
def test_the_states_read_and_all_gradients_are_the_same(name: str, copies: int) -> None:
    model, plain = made((BLOCKS | OTHERS)[name]), made((BLOCKS | OTHERS)[name])
    places, ids = Places.of(CHOSEN), IDS.repeat(copies, 1)
    found, found_grad = with_gradients(model, read(model, ids, places))
    wanted, wanted_grad = with_gradients(plain, whole(plain, ids, places))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found_grad, wanted_grad)
    if "window" not in name:  # told by its mask at run time
        assert ("forward" in vars(last_layer(model))) == (name in BLOCKS)


@pytest.mark.parametrize("name", [*BLOCKS, "gpt2"])
def test_what_is_not_read_is_left_out(name: str) -> None:
    model = made((BLOCKS | OTHERS)[name])
    rows = []
    last_layer(model).mlp.register_forward_hook(lambda mlp, given, result: rows.append(given[0][..., 0].numel()))
    prepare(model)
    rows.clear()
    read(model, IDS, Places.of(CHOSEN))
    whole(model, IDS, Places.of(CHOSEN))
    # a hook sees what the block hands over: packed in a block of ours, whole where the MLP itself picks
    assert rows == ([int(CHOSEN.sum()), IDS.numel()] if name in BLOCKS else [IDS.numel()] * 2)


def test_rows_without_places_and_none_at_all() -> None:
    model = made(BLOCKS["llama"])
    chosen = CHOSEN.clone()
    chosen[1] = False
    torch.testing.assert_close(read(model, IDS, Places.of(chosen)), whole(model, IDS, Places.of(chosen)))
    assert read(model, IDS, Places.of(torch.zeros_like(CHOSEN))).shape == (0, 16)


def test_outside_of_a_reading_the_model_is_its_own() -> None:
    model, plain = made(BLOCKS["llama"]), made(BLOCKS["llama"])
    prepare(model)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
    for given in ({}, {"attention_mask": mask}):
        torch.testing.assert_close(model(IDS, **given).logits, plain(IDS, **given).logits, rtol=0, atol=0)
    with pytest.raises(ZeroDivisionError):
        states_at(model, Places.of(CHOSEN), lambda: 1 / 0)
    assert last_layer(model).reading is None


def test_a_copy_has_weights_of_its_own() -> None:
    model = made(BLOCKS["llama"])
    prepare(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        last_layer(twin).self_attn.q_proj.weight.mul_(3)
    places = Places.of(CHOSEN)
    torch.testing.assert_close(read(twin, IDS, places), whole(twin, IDS, places))
    assert not torch.allclose(read(twin, IDS, places), read(model, IDS, places), atol=1e-3)


@pytest.mark.parametrize("case", ["checkpointing", "autocast", "half"])
def test_where_the_block_is_not_known_the_whole_layer_goes_on(case: str, monkeypatch) -> None:
    model = made(BLOCKS["llama"])
    if case == "half":
        model.bfloat16()
    prepare(model)
    if case == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    monkeypatch.setattr(tail, "_block", lambda *_: pytest.fail("this block is for float32 alone"))
    places = Places.of(CHOSEN)
    with torch.autocast("cpu", torch.bfloat16) if case == "autocast" else nullcontext():
        found, grad = with_gradients(model, read(model, IDS, places))
        wanted, wanted_grad = with_gradients(model, whole(model, IDS, places))
    assert torch.allclose(found, wanted, atol=0.02) and grad.keys() == wanted_grad.keys()
