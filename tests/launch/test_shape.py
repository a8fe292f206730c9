"""Parameters counted from a config against those of the model itself, built on the meta device."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from morlaif.memory import dimensions as module
from morlaif.memory.dimensions import of_config, of_path

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


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"])
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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert of_path(str(tmp_path)) is None


def test_the_hubs_cache_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--somebody--something"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc\n")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(SMALL | {"model_type": "qwen2"}))
    assert of_path("somebody/something").kind == "qwen2"
