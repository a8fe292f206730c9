"""Models and tokenizers from folders: what is refused, and that no file makes Python of its choice run."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_ppo import tokenizer as small_tokenizer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import morlaif
from morlaif.errors import UserError
from morlaif.evaluation.outside import load_outside
from morlaif.models.load import load_causal_lm, load_policy, point_to, source_of
from morlaif.models.open import check_causal, check_vocabulary
from morlaif.models.place import Source
from morlaif.models.settings import ModelSettings
from morlaif.preference.model import load_classifier
from morlaif.preference.pretrained import PretrainedModel
from morlaif.rl.critic import load_critic

SIZE = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZE |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
DECODERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=False)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
}


def saved(model: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path) -> Path:
    return saved(DECODERS["llama"](), tmp_path / "llama")


@pytest.fixture
def scorer(tmp_path) -> Path:
    config = GPT2Config(vocab_size=320, n_embd=16, n_layer=2, n_head=2, n_positions=64, num_labels=1)
    return saved(GPT2ForSequenceClassification(config), tmp_path / "scorer")


def classifier(path: str, **more: Any) -> Any:
    return load_classifier(Source(path, key="pm.base", **more), small_tokenizer())


# every way from a key of the config to a model
WAYS: dict[str, Callable[..., Any]] = {
    "model.path": lambda path, **more: load_causal_lm(Source(path, key="model.path", **more)),
    "feedback.path": lambda path, **more: load_causal_lm(Source(path, key="feedback.path", **more)),
    "pm.base": classifier,
    "pm.paths.x": lambda path, **more: PretrainedModel.load("x", Source(path, key="pm.paths.x", **more), 64),
    "eval.policies.x": lambda path, **more: load_outside(
        "x", path, more.get("trust_remote_code", False), dtype=torch.float32, device=torch.device("cpu")
    ),
}


def changed(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("kind", DECODERS)
def test_sound_models_load_as_they_were_saved(kind, tmp_path):
    folder = saved(model := DECODERS[kind]().eval(), tmp_path / kind)
    ids = torch.tensor([[5, 6, 7]])
    loaded = load_causal_lm(folder)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert load_classifier(folder, small_tokenizer()).config.num_labels == 1


@pytest.mark.slow
def test_each_call_that_reads_a_model_says_what_may_run():
    """transformers asks on the terminal where it is not said. One file reads models; peft's adapters are data."""
    found = []
    for file in sorted(Path(morlaif.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("from_pretrained", "from_config"):
                named = {word.arg for word in node.keywords}
                owner = getattr(node.func.value, "id", "")
                assert owner == "PeftModel" or None in named or "trust_remote_code" in named, f"{file}:{node.lineno}"
                found.append((file.name, owner))
    assert {file for file, owner in found if owner != "PeftModel"} <= {"open.py", "scratch.py", "shape.py"}
    assert len(found) > 3


MARK = "from pathlib import Path\nPath({!r}).touch()\n"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """What code of a folder's own leaves behind; and nobody is asked anything."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    return tmp_path / "it ran"


def bring_code(folder: Path, marker: Path, *, needed: bool) -> None:
    """Python in every place where a folder may bring some. `needed`: an architecture that exists nowhere else."""
    code = MARK.format(str(marker)) + (
        "from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'own'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Scorer(LlamaForSequenceClassification):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    (folder / "own.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(model, **kwargs):\n    pass\n")
    own = {
        "AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model",
        "AutoModelForSequenceClassification": "own.Scorer", "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"],
    }  # fmt: skip
    changed(folder, auto_map=own, **({"model_type": "own", "architectures": ["Model"]} if needed else {}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"auto_map": own}))


@pytest.mark.parametrize("way", WAYS)
def test_code_that_is_needed_is_named_with_the_key_that_allows_it(way, llama, scorer, marker):
    folder = scorer if way == "pm.paths.x" else llama
    bring_code(folder, marker, needed=True)
    allow = {"pm.base": "pm", "pm.paths.x": "pm", "eval.policies.x": "eval"}.get(way, way.partition(".")[0])
    with pytest.raises(UserError, match=rf"{way}=.*{allow}\.trust_remote_code=(true|\[x\])"):
        WAYS[way](str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("way", WAYS)
def test_code_that_is_not_needed_is_left_alone(way, llama, scorer, marker):
    folder = scorer if way == "pm.paths.x" else llama
    bring_code(folder, marker, needed=False)
    WAYS[way](str(folder))
    assert not marker.exists()


def test_the_run_s_own_config_may_allow_it(llama, marker):
    bring_code(llama, marker, needed=True)
    model = load_causal_lm(Source(str(llama), trust_remote_code=True))
    assert marker.exists() and type(model).__name__ == "Model"


@pytest.mark.parametrize("inside", [True, False])
def test_no_file_allows_it(llama, marker, tmp_path, inside):
    """A finished unit whose model.json says true: its word counts for nothing."""
    bring_code(llama, marker, needed=True)
    unit = tmp_path / "unit"
    unit.mkdir()
    point = {"path": str(llama), "revision": None, "attention": None, "trust_remote_code": inside}
    (unit / "model.json").write_text(json.dumps(point))
    for load in (lambda: WAYS["eval.policies.x"](str(unit)), lambda: load_policy(unit)):
        with pytest.raises(UserError, match=r"trust_remote_code=(\[x\]|true)"):
            load()
    assert not marker.exists()
    WAYS["eval.policies.x"](str(unit), trust_remote_code=True)
    assert marker.exists()


def test_a_pointer_follows_the_run_s_config(llama, tmp_path):
    """The store's pointer may be another run's: the folder now lies elsewhere, and its code may or may not run."""
    unit = tmp_path / "unit"
    unit.mkdir()
    point_to(unit, Source(str(llama), attention="eager"))
    moved = shutil.move(llama, tmp_path / "moved")
    base = ModelSettings(
        name="m", path=str(moved), revision=None, trust_remote_code=True, attention="sdpa", scratch=None, min_ended=0.5
    )
    source = source_of(unit, base)
    assert (source.path, source.trust_remote_code, source.attention) == (str(moved), True, "eager")
    load_policy(unit, base=base.model_copy(update={"trust_remote_code": False}))
    with pytest.raises(UserError, match="no such folder"):
        load_policy(unit)


@pytest.mark.slow
def test_an_adapter_chooses_no_code_and_holds_no_pickle(llama, tmp_path, marker, monkeypatch):
    from peft import LoraConfig, get_peft_model

    from morlaif.models.load import ADAPTER, point_to_adapter

    (base := tmp_path / "base").mkdir()
    (unit := tmp_path / "unit").mkdir()
    point_to(base, Source(str(llama)))
    get_peft_model(DECODERS["llama"](), LoraConfig(r=2, target_modules="all-linear")).save_pretrained(unit / ADAPTER)
    point_to_adapter(unit, base)
    load_policy(unit)
    (tmp_path / "evil_core.py").write_text(MARK.format(str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    config = unit / ADAPTER / "adapter_config.json"
    plain = json.loads(config.read_text())
    megatron, mapping = {"megatron_config": {"a": 1}, "megatron_core": "evil_core"}, {"parent_library": "evil_core"}
    for changes in (megatron, {"auto_mapping": mapping}):
        config.write_text(json.dumps(plain | changes))
        with pytest.raises(UserError, match="expected a plain LoRA"):
            load_policy(unit)
    config.write_text(json.dumps(plain))
    weights = unit / ADAPTER / "adapter_model.safetensors"
    torch.save(load_file(weights), unit / ADAPTER / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"only safetensors.*python -m morlaif\.models\.convert"):
        load_policy(unit)
    assert not marker.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_whoever_names_them(way, name, llama, scorer):
    folder = scorer if way == "pm.paths.x" else llama
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    told = r"python -m morlaif\.models\.convert" if name.endswith(".bin") else "save_pretrained"
    with pytest.raises(UserError, match=rf"{way}=.*{name} alone.*only safetensors.*{told}"):
        WAYS[way](str(folder))


def token(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "tokenizer.json").read_text())
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value))


def added(folder: Path, id: int) -> None:
    token(folder, lambda t: t["added_tokens"].append(t["added_tokens"][0] | {"id": id, "content": "<|new|>"}))


def settings(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(value))


def lose(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.up_proj.weight"][0, :2] = value

    return change


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a weight is missing": (lambda f: tensors(f, lose), r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"),
    "the head is missing": (lambda f: tensors(f, lambda w: w.pop("lm_head.weight")), r"no weights for lm_head\.weight"),
    "a shape differs": (
        lambda f: changed(f, intermediate_size=48),
        r"(32 by 16|16 by 32), and its config\.json wants (48 by 16|16 by 48)",
    ),
    "a layer more": (lambda f: changed(f, num_hidden_layers=3), r"no weights for model\.layers\.2\..* and \d+ more"),
    "NaN": (
        lambda f: tensors(f, spoil(float("nan"))),
        r"2 of 512 values of its weight '.*layers\.1\.mlp\.up_proj\.weight'",
    ),
    "inf": (lambda f: tensors(f, spoil(float("-inf"))), "are not finite in float32"),
    "cut off": (lambda f: os.truncate(f / "model.safetensors", 9_000), "cut off"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json"),
    "widths that no model has": (lambda f: changed(f, hidden_size="many"), r"model\.path="),
    "a layer less": (lambda f: changed(f, num_hidden_layers=1), r"hold a layer 1 .*config\.json has 1 layers"),
    "no layers": (lambda f: changed(f, num_hidden_layers=-1), r"num_hidden_layers is -1; expected a whole number"),
    "a layer too few, none left": (lambda f: changed(f, num_hidden_layers=0), "num_hidden_layers is 0"),
    "integers as weights": (
        lambda f: tensors(f, lambda w: w.update({"lm_head.weight": w["lm_head.weight"].to(torch.int8)})),
        r"'lm_head\.weight' is of the type I8, .* no quantization_config",
    ),
    "a quantization that nobody knows": (
        lambda f: changed(f, quantization_config={"quant_method": "nosuch"}), r"quant_method 'nosuch'",
    ),
    "a table of another size": (lambda f: changed(f, vocab_size=319), r"320 by 16, .* wants 319 by 16"),
    "words without a row": (
        lambda f: token(f, lambda t: t["model"]["vocab"].update({f"x{k}": 31 + k for k in range(1, 400)})),
        r"111 of its tokenizer's 431 tokens have no row of embeddings \('x289', .*the model has 320 rows",
    ),
    "an added token far behind the last row": (
        lambda f: added(f, 350),
        r"gives '<\|new\|>' the id 350, which cannot be: it comes out as \d+",
    ),
    "two tokens of one id": (
        lambda f: added(f, 9),
        r"two tokens of the id 9, 'w6' and '<\|new\|>'",
    ),
    "an end that is no token": (lambda f: settings(f, eos_token="<|end|>"), r"eos_token '<\|end\|>' is no token"),
    "an unknown activation": (lambda f: changed(f, hidden_act="nonsense"), "nonsense"),
    "an unknown number format": (lambda f: changed(f, dtype="float12"), "model.path="),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {}}'), "cannot load a tokenizer",
    ),
    "a tokenizer of a list": (lambda f: (f / "tokenizer.json").write_text("[]"), "cannot load a tokenizer"),
    "a template that is none": (lambda f: (f / "chat_template.jinja").write_text("{% if %}"), "chat template"),
    "attention by a stranger's code": (lambda f: changed(f, attn_implementation="who/ever"), "code from 'who/ever'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_line_and_never_loads_with_random_weights(name, llama):
    change, pattern = BROKEN[name]
    change(llama)
    with pytest.raises(UserError, match=pattern) as told:
        load_causal_lm(Source(str(llama), key="model.path"))
    lines = str(told.value).splitlines()
    assert all(line.startswith("model.path") for line in lines) and str(llama) in lines[0]


def test_weights_too_large_for_the_number_format_are_named(llama):
    tensors(llama, spoil(1e6))
    load_causal_lm(llama)
    with pytest.raises(UserError, match=r"not finite in float16; take a sound copy, or a wider number format"):
        load_causal_lm(llama, dtype=torch.float16)


def test_special_tokens_without_a_row_may_not_be_those_that_the_template_writes():
    """As where the tokenizer of a chat model is beside the weights of its base."""
    tokenizer = small_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    assert check_vocabulary("m", tokenizer, rows) == rows + 1
    tokenizer.chat_template = "<|turn|>" + tokenizer.chat_template
    assert check_vocabulary("m", tokenizer, rows + 1) == rows + 1
    with pytest.raises(UserError, match=r"m: 1 of its tokenizer's \d+ tokens have no row of embeddings \('<\|turn\|>'"):
        check_vocabulary("m", tokenizer, rows)


@pytest.mark.parametrize("decoder", [False, True])
def test_an_encoder_is_no_causal_model(decoder, tmp_path):
    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        is_decoder=decoder,
    )  # fmt: skip
    folder = saved(BertLMHeadModel(config), tmp_path / "bert")
    if decoder:
        load_causal_lm(folder)
        return
    with pytest.raises(UserError, match=r"'bert' \(BertLMHeadModel\), not a causal language model"):
        load_causal_lm(folder)
    with pytest.raises(UserError, match="BertLMHeadModel reads what follows a token too"):
        check_causal(Source(str(folder)), BertLMHeadModel.from_pretrained(folder, trust_remote_code=False).eval())


def test_scores_that_are_not_finite_end_with_the_model_s_name(scorer):
    tensors(scorer, lambda weights: weights["score.weight"].fill_(float("inf")))
    with pytest.raises(UserError, match=r"pm\.paths\.x=.* values of its weight 'score\.weight' are not finite"):
        WAYS["pm.paths.x"](str(scorer))
    tensors(scorer, lambda weights: weights["score.weight"].fill_(3e38))
    model = WAYS["pm.paths.x"](str(scorer))
    with pytest.raises(UserError, match=r"pm\.paths\.x=.* scores are not finite in float32"):
        model.score([model.encode([{"role": "user", "content": "a b"}], "c d")])


def test_a_critic_is_read_by_the_same_rules(llama, scorer, tmp_path):
    unit = tmp_path / "pm"
    shutil.copytree(scorer, unit / "model")
    (unit / "pm.json").write_text(json.dumps({"base": {"own": True, "path": str(scorer), "revision": None}}))
    load_critic(unit, scorer, small_tokenizer(), "cpu")
    tensors(unit / "model", lambda weights: weights.pop("score.weight"))
    with pytest.raises(UserError, match=r"no weights for score\.weight"):
        load_critic(unit, scorer, small_tokenizer(), "cpu")
    (unit / "model" / "model.safetensors").rename(unit / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="only safetensors"):
        load_critic(unit, scorer, small_tokenizer(), "cpu")
