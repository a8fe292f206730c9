"""Parameters counted from a config against those of the model itself, built on the meta device."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from morlaif.memory import dimensions as module
from morlaif.memory.built import described
from morlaif.memory.dimensions import Dimensions, of_config, of_path, why_unknown
from morlaif.preference.lora import size

KNOWN = yaml.safe_load(module.files("morlaif.memory").joinpath("dimensions.yaml").read_text())
SMALL = {
    "vocab_size": 999, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def meta(config: dict):
    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **rest))


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_as_many_parameters(name):
    model, shape = meta(KNOWN[name]), of_path(name)
    assert shape.parameters == count(model)
    assert shape.largest == max(parameter.numel() for parameter in model.parameters())
    assert {"meta-llama/Llama-2-70b-hf": 68_976_648_192}.get(name, shape.parameters) == shape.parameters


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("tied", [True, False])
def test_each_architecture_is_counted(kind, tied):
    config = SMALL | {"model_type": kind, "tie_word_embeddings": tied}
    model = meta(config)
    assert of_config(model.config.to_dict()).parameters == count(model)


def test_biases_count():
    config = SMALL | {"model_type": "llama", "attention_bias": True, "mlp_bias": True}
    assert of_config(config | {"tie_word_embeddings": False}).parameters == count(meta(config))


@pytest.mark.parametrize("config", [SMALL | {"model_type": "llama"}, KNOWN["gpt2"]])
def test_an_adapter_is_counted(config):
    model = get_peft_model(meta(config), LoraConfig(r=4, target_modules="all-linear"))
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert of_config(config | {"tie_word_embeddings": False}).lora(4) == learning


def test_a_folder_is_read_and_an_unknown_model_is_not_guessed(tmp_path):
    assert of_path(str(tmp_path)) is None and of_path("somebody/unheard-of") is None
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama"}))
    assert of_path(str(tmp_path)).layers == 3
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of-nobody"}))
    assert of_path(str(tmp_path)) is None
    assert "of-nobody" in why_unknown(str(tmp_path)) and "no config.json" in why_unknown("somebody/unheard-of")


def test_the_hubs_cache_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--somebody--something"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc\n")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(SMALL | {"model_type": "qwen2"}))
    assert of_path("somebody/something").kind == "qwen2"


# --- Any architecture, built without numbers -------------------------------------------------------------------------

TINY = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "max_position_embeddings": 128, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATES = {"state_size": 8, "time_step_rank": 4, "conv_kernel": 4, "expand": 2}
ARCHITECTURES = {
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "falcon": {"multi_query": True, "new_decoder_architecture": False, "head_dim": None},
    "gpt_bigcode": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128, "multi_query": True},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
    "deepseek_v3": LATENT | {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
                             "num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    "mamba": STATES,
    "olmo2": {},
    "smollm3": {},
    "phi3": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def built():
    """A tiny model of each architecture, in numbers and without."""
    made = {}
    for kind, more in ARCHITECTURES.items():
        values = {key: value for key, value in (TINY | more).items() if value is not None}
        config = AutoConfig.for_model(kind, **values)
        model = AutoModelForCausalLM.from_config(config).eval()
        found = described(json.dumps(config.to_dict()))
        assert "error" not in found, (kind, found)
        made[kind] = model, Dimensions(**found)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_any_architecture_is_counted(kind, built):
    model, shape = built[kind]
    assert shape.parameters == count(model)
    assert shape.body <= count(model) and shape.layers == 2
    head = model.get_output_embeddings()
    layers = [size(m) for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    assert shape.lora(4) == 4 * sum(map(sum, layers))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "mamba"])
@pytest.mark.parametrize("tokens", [3, 20])
def test_the_cache_of_any_architecture_is_counted(kind, tokens, built):
    model, shape = built[kind]
    with torch.no_grad():
        cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True).past_key_values
    held = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    short = sum(each for _, each in shape.windows)  # transformers keep one token less than the window
    assert held <= shape.cached(tokens) <= held + short


@pytest.mark.slow
def test_what_is_no_attention_keeps_a_state(built):
    shape = built["mamba"][1]
    assert shape.whole == 0 and shape.state == shape.cached(5) == shape.cached(5000) > 0


@pytest.mark.slow
def test_of_experts_those_that_a_token_is_sent_to(built):
    model, shape = built["mixtral"]
    experts = sum(p.numel() for name, p in model.named_parameters() if "experts" in name)
    embedded = 2 * model.get_input_embeddings().weight.numel()
    assert shape.body == count(model) - embedded - experts // 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text"])
def test_arithmetic_and_building_agree(kind):
    """What autograd keeps: within 15 %."""
    config = SMALL | {"model_type": kind, "hidden_size": 256, "intermediate_size": 512, "head_dim": 32}
    config |= {"num_hidden_layers": 6, "sliding_window": 16, "tie_word_embeddings": True}
    counted, found = of_config(config), Dimensions(**described(json.dumps(config)))
    assert found.body - counted.body == 256  # the last norm
    for name in ("parameters", "adapted", "inputs", "linears", "whole", "largest", "widest"):
        assert getattr(counted, name) == getattr(found, name), name
    assert list(map(tuple, found.windows)) == list(counted.windows)
    for name in ("kept", "frozen"):
        assert getattr(counted, name) == pytest.approx(getattr(found, name), rel=0.15), name
