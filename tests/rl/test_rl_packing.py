"""Packed dialogues, and layers that torch.compile has fused: losses and gradients are those of the padded path."""

from __future__ import annotations

import math

import pytest
import small_ppo
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
)

from morlaif.errors import UserError
from morlaif.models import compiled, packing
from morlaif.rl.experience import collate

CPU = torch.device("cpu")
ROW = st.lists(st.integers(3, 31), min_size=1, max_size=9)


def gemma3() -> Gemma3ForCausalLM:
    """With windows of 4 tokens in one of its layers, and rows that are longer."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


MODELS = {"llama": small_ppo.llama, "gpt2": small_ppo.gpt2, "gemma3": gemma3}


@pytest.fixture
def packed(monkeypatch):
    """Call it to build models that pack."""

    def made(model, **changes):
        monkeypatch.setattr(packing, "enabled", True)
        models = small_ppo.models(small_ppo.settings(**changes), model)
        monkeypatch.setattr(packing, "enabled", False)
        return models

    return made


@pytest.mark.slow
@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=5), st.sampled_from([1, 8]))
@settings(max_examples=50, deadline=None)
def test_one_row_holds_each_dialogue_whole_and_reads_the_same_states(rows, bucket):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("morlaif.rl.experience.BUCKET", {"cpu": bucket})
        batch = collate([prompt for prompt, _ in rows], [response for _, response in rows], 0, CPU)
    ids, positions, read = batch.packed
    assert ids[0].tolist() == [token for prompt, response in rows for token in (*prompt, *response)]
    assert positions[0].tolist() == [k for prompt, response in rows for k in range(len(prompt) + len(response))]
    places = []  # of the token before each of a response
    for prompt, response in rows:
        start = sum(map(len, (side for row in rows[: len(places)] for side in row)))
        places.append([start + len(prompt) - 1 + k for k in range(len(response))])
    assert read.tolist() == [place for own in places for place in own]


@pytest.mark.parametrize("critic", ["shared", "separate", "none"])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_and_gradients_are_those_of_the_padded_path(packed, family, critic, attention):
    """A policy and a critic whose head is not zero; the loss has all that a forward gives."""
    prompts, responses = [[3, 4, 5], [6, 7], [8, 9, 10, 11, 12]], [[20, 21, 1], [22, 23, 24, 25, 1], [26]]
    changes = {"critic.kind": critic, "entropy_coef": 0.01, "clip_range_value": None}
    changes |= {"advantage": "reinforce_pp"} if critic == "none" else {}
    found = []
    for make in (lambda model: small_ppo.models(small_ppo.settings(**changes), model), lambda m: packed(m, **changes)):
        model = MODELS[family]()
        model.set_attn_implementation(attention)
        models = make(model)
        if models.value_head is not None:
            torch.nn.init.constant_(models.value_head.weight, 0.1)
        logprobs, entropy, values = models(collate(prompts, responses, 0, CPU))
        parts = [logprobs.exp(), entropy] + ([] if values is None else [values.square()])
        sum(part.sum() for part in parts).backward()
        weights = {name: p.grad for name, p in models.named_parameters() if p.grad is not None}
        found.append((parts, weights, models.reference_logprobs(collate(prompts, responses, 0, CPU))))
    (padded, slow, before), (one_row, fast, now) = found
    for a, b in zip((*padded, before), (*one_row, now), strict=True):
        torch.testing.assert_close(a, b, atol=3e-6, rtol=1e-5)
    assert slow.keys() == fast.keys() and len(slow) > 10
    for name, grad in slow.items():
        torch.testing.assert_close(grad, fast[name], atol=2e-5, rtol=1e-4, msg=name)
    assert any(grad.abs().max() > 0.01 for grad in slow.values())


@pytest.mark.slow
def test_a_run_that_packs_learns_what_one_that_pads_does(tmp_path, packed):
    config = small_ppo.settings(**{"policy.kind": "lora", "policy.target_modules": "all-linear", "micro_batch_size": 4})
    usual = small_ppo.trainer(config, tmp_path / "a").run()
    models = packed(small_ppo.llama(), **{"policy.kind": "lora", "policy.target_modules": "all-linear"})
    assert models.packed
    other = small_ppo.trainer(config, tmp_path / "b", models).run()
    for a, b in zip(usual.curve, other.curve, strict=True):
        for key in ("reward", "kl", "policy_loss", "value_loss", "grad_norm", "entropy"):
            assert math.isclose(a[key], b[key], rel_tol=1e-3, abs_tol=1e-5), (key, a[key], b[key])
        assert b["first_ratio_error"] < 1e-5


@pytest.mark.parametrize("family", MODELS)
def test_what_keeps_packed_dialogues_apart_is_no_fault(family):
    assert packing.packing_fault(MODELS[family]().eval()) is None


def test_a_model_that_reads_across_dialogues_is_refused(packed):
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2))
    for model in (mamba, bloom):
        with pytest.raises(
            UserError, match=rf"hardware\.packing: {type(model).__name__} reads .* hardware\.packing=false"
        ):
            packing.check(model.eval())
    with pytest.raises(UserError, match=r"hardware\.packing: Bloom"):
        packed(bloom)


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses_and_gradients(monkeypatch):
    """And sampling runs the layers as they are, which stay in the model. The graphs that torch.compile reads run here
    without its compiler, which would take a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    prompts, responses = [[3, 4, 5], [6, 7]], [[20, 21, 1], [22, 23, 24, 25, 1]]
    found = []
    for flag in (False, True):
        monkeypatch.setattr(compiled, "enabled", flag)
        changes = {"policy.kind": "lora", "policy.target_modules": "all-linear"}
        models = small_ppo.models(small_ppo.settings(**changes))
        layers = [type(layer).__name__ for layer in models.model.model.layers]
        batch = collate(prompts, responses, 0, CPU)
        logprobs = models(batch)[0]
        logprobs.sum().backward()
        grads = {name: p.grad.clone() for name, p in models.named_parameters() if p.grad is not None}
        with torch.no_grad():
            more = models(collate(prompts[:1], responses[:1], 0, CPU))[0]  # of another size, without gradients
        found.append((logprobs.detach(), grads, more))
        assert bool(models.runs) == flag and layers == ["LlamaDecoderLayer"] * 2
        assert not any("_orig_mod" in name for name in models.trained_state())
    (a, slow, c), (b, fast, d) = found
    for x, y in ((a, b), (c, d)):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    for name, grad in slow.items():
        torch.testing.assert_close(grad, fast[name], atol=1e-5, rtol=1e-4)
