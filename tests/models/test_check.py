"""What a model folder's files say is wrong with it, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from morlaif.memory.dimensions import of_path
from morlaif.models.architectures import knows_tokenizer, quantizations
from morlaif.models.check import adapter_problems, folder_problems
from morlaif.models.convert import main as convert
from morlaif.models.vocabulary import vocabulary_fault

KEY = "model.path"


def safetensors(path: Path, names: tuple[str, ...] = ("w",), **changes: Any) -> None:
    """A small file with the tensors `names`, 2 × 3 of F32 each."""
    header = {n: {"dtype": "F32", "shape": [2, 3], "data_offsets": [24 * i, 24 * i + 24]} for i, n in enumerate(names)}
    header[names[0]] |= changes
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(24 * len(names)))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder without fault: a Llama, its weights and its tokenizer."""
    made = tmp_path / "it's [a] model"
    made.mkdir()
    write(made, {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    safetensors(made / "model.safetensors")
    (made / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "<eos>": 1}}, "added_tokens": []}))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (made / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return made


SIZES = {
    "llama": {
        "vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    },
    "gpt2": {"vocab_size": 300, "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2},
}  # fmt: skip


def write(folder: Path, config: Any) -> None:
    """Sizes that every model of the kind has are filled in."""
    if isinstance(config, dict):
        config = SIZES.get(str(config.get("model_type")), {}) | config
    (folder / "config.json").write_text(json.dumps(config))


def problems(folder: Path, **more: Any) -> list[str]:
    return list(folder_problems(KEY, str(folder), **more))


def shards(folder: Path, placed: dict[str, str] | Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    safetensors(folder / "a.safetensors", ("x", "y"))
    safetensors(folder / "b.safetensors", ("z",))


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def test_a_sound_folder_has_no_problem(folder):
    assert problems(folder) == problems(folder, kind="trunk") == problems(folder, kind="policy") == []
    shards(folder, {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    assert problems(folder) == []


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json.*model\.safetensors"),
    "config is a list": (lambda f: write(f, []), r"config\.json: .*list.*expected a model's config"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{'a': 1}"), r"config\.json.*not JSON"),
    "config is empty": (lambda f: (f / "config.json").write_text(""), r"config\.json: is empty"),
    "config is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        r"config\.json: is a folder",
    ),
    "no model type": (lambda f: write(f, {}), "names no model_type"),
    "unknown model type": (lambda f: write(f, {"model_type": "lllama"}), "does not know.* Did you mean 'llama'"),
    "model type is a number": (lambda f: write(f, {"model_type": 3}), "names no model_type"),
    "encoder": (lambda f: write(f, {"model_type": "bert", "architectures": ["BertForMaskedLM"]}), "not a causal"),
    "encoder as a decoder's class": (
        lambda f: write(f, {"model_type": "bert", "architectures": ["BertLMHeadModel"]}), "not a causal",
    ),
    "encoder without a class": (lambda f: write(f, {"model_type": "roberta"}), "not a causal"),
    "encoder and decoder": (
        lambda f: write(f, {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}), "not a causal",
    ),
    "classifier": (
        lambda f: write(f, {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]}), "not a causal",
    ),
    "attention to both sides": (
        lambda f: write(f, {"model_type": "gemma3_text", "use_bidirectional_attention": True}), "both sides",
    ),
    "attention code from the hub": (
        lambda f: write(f, {"model_type": "llama", "attn_implementation": "some/kernel"}), "code from 'some/kernel'",
    ),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "peft adapter.*merge"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights.*expected model.safetensors"),
    "a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"only safetensors.*python -m morlaif\.models\.convert '",
    ),
    "another pickle": (lambda f: (f / "model.safetensors").rename(f / "model.pt"), "only safetensors.*save_pretrained"),
    "another format": (lambda f: (f / "model.safetensors").rename(f / "model.gguf"), r"as model\.gguf; expected"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), r"model\.safetensors: no safetensors \(0 bytes"),
    "weights cut in the header": (lambda f: cut(f / "model.safetensors", 20), "cut off at 20 bytes, within its header"),
    "weights cut in the data": (lambda f: cut(f / "model.safetensors", 90), r"cut off: 90 bytes of \d+"),
    "too many bytes": (lambda f: (f / "model.safetensors").open("ab").write(b"x"), "longer than its header says"),
    "a pointer of Git LFS": (
        lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull",
    ),
    "shape and size differ": (lambda f: safetensors(f / "model.safetensors", shape=[9]), "damaged at the tensor 'w'"),
    "offsets overlap": (
        lambda f: safetensors(f / "model.safetensors", ("w", "v"), data_offsets=[24, 48]), "header is damaged at",
    ),
    "offsets are no numbers": (lambda f: safetensors(f / "model.safetensors", data_offsets=None), "header is damaged"),
    "weights of another name": (
        lambda f: write(f, {"model_type": "llama", "transformers_weights": "../x"}), r"'\.\./x'",
    ),
    "a shard is missing": (lambda f: shards(f, {"x": "a.safetensors", "q": "c.safetensors"}), "1 of 2 shards missing"),
    "a shard elsewhere": (lambda f: shards(f, {"x": "../a.safetensors"}), r"names '\.\./a\.safetensors'"),
    "a shard lacks a tensor": (lambda f: shards(f, {"q": "a.safetensors"}), r"a\.safetensors: lacks the tensor 'q'"),
    "a shard is cut": (
        lambda f: (shards(f, {"x": "a.safetensors"}), cut(f / "a.safetensors", 150)), r"a\.safetensors: cut off",
    ),
    "no map of shards": (lambda f: shards(f, []), "expected a weight_map"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer.*expected tokenizer\.json"),
    "tokenizer cut": (lambda f: (f / "tokenizer.json").write_text('{"model": {'), r"tokenizer\.json: breaks off"),
    "large tokenizer cut": (
        lambda f: (f / "tokenizer.json").write_text("{" + " " * (5 << 20)), r"tokenizer\.json: breaks off",
    ),
    "bad template": (
        lambda f: (f / "tokenizer_config.json").write_text('{"chat_template": "{% for m in x %}\\n{% endif %}"}'),
        r"tokenizer_config\.json: chat_template: not a chat template: line 2",
    ),
    "bad template file": (
        lambda f: (f / "chat_template.jinja").write_text("{{ a"), r"chat_template\.jinja: not a chat template: line 1",
    ),
    "template is a number": (
        lambda f: (f / "tokenizer_config.json").write_text('{"chat_template": 3}'), "is int; expected a text",
    ),
    "needs Python": (
        lambda f: write(f, {"model_type": "own", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}}),
        r"does not allow; model\.trust_remote_code=true",
    ),
    "class needs Python": (
        lambda f: write(
            f, {"model_type": "llama", "architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "m.M"}}
        ),
        r"does not allow; model\.trust_remote_code=true",
    ),
    "tokenizer needs Python": (
        lambda f: (
            (f / "tokenizer.json").unlink(),
            (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["t.T", null]}}'),
        ),
        r"its tokenizer runs only with Python",
    ),
}  # fmt: skip


def one_line(folder: Path, spoil: Callable[[Path], object], pattern: str) -> str:
    """What is said of `folder` when `spoil` has been at it: a line with key and place, which matches `pattern`."""
    spoil(folder)
    (found,) = problems(folder)
    assert "\n" not in found and found.startswith(KEY) and str(folder) in found.replace("\\'", "'")
    assert re.search(pattern, found), found
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_line_with_its_key_and_place(folder, name):
    one_line(folder, *BROKEN[name])


def test_a_path_that_is_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (line,) = folder_problems(KEY, folder / "model.safetensors")
    assert "is a file; give the folder" in line
    (line,) = folder_problems(KEY, str(folder)[:-1])
    assert "no such folder" in line and f'Did you mean "{folder.name}"' in line.replace("'it's", "\"it's").replace(
        "model'?", 'model"?'
    )
    (line,) = folder_problems(KEY, "not a hub id")
    assert "neither a folder nor a hub id" in line
    assert list(folder_problems(KEY, "some/model")) == []  # the hub may know it
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (line,) = folder_problems(KEY, "some/model")
    assert "HF_HUB_OFFLINE" in line
    home = tmp_path / "hub" / "models--some--model"
    (home / "snapshots" / "c0ffee").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    (line,) = folder_problems(KEY, "some/model")
    assert "no config.json" in line


def test_python_of_its_own_may_run_where_this_run_allows_it(folder):
    write(folder, {"model_type": "own", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}})
    assert problems(folder, trust_remote_code=True) == []
    keys = ("pm.base", "pm.paths.x", "eval.policies.x", "feedback.path")
    lines = {key: next(folder_problems(key, folder)) for key in keys}
    assert "pm.trust_remote_code=true" in lines["pm.base"] and "pm.trust_remote_code=true" in lines["pm.paths.x"]
    assert "eval.trust_remote_code=[x]" in lines["eval.policies.x"]
    assert "feedback.trust_remote_code=true" in lines["feedback.path"]


def test_a_known_architecture_needs_no_python_even_if_it_brings_some(folder):
    own = {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M", "AutoTokenizer": ["t.T", None]}
    write(folder, {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "auto_map": own})
    assert problems(folder) == []


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ({"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x"}}, None),
        ({"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x", "1": "y"}}, None),
        ({"architectures": ["GPT2LMHeadModel"]}, "expected a trained reward model"),
    ],
)
def test_a_reward_model_is_a_classifier(folder, config, pattern):
    write(folder, {"model_type": "gpt2", **config})
    found = problems(folder, kind="classifier")
    assert (found == []) if pattern is None else (len(found) == 1 and pattern in found[0])


def test_a_trunk_may_be_a_classifier_and_a_decoder_alone(folder):
    write(folder, {"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]})
    assert problems(folder, kind="trunk") == []
    write(folder, {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]})
    assert "not a causal language model" in problems(folder, kind="trunk")[0]
    write(folder, {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True})
    assert problems(folder) == []


def test_a_policy_may_be_a_finished_unit_that_points_elsewhere(folder, tmp_path):
    unit = tmp_path / "unit"
    unit.mkdir()
    (line,) = problems(unit, kind="policy")
    assert "no model in this folder" in line
    point = {"path": str(folder), "revision": None, "trust_remote_code": False, "attention": None}
    (unit / "model.json").write_text(json.dumps(point))
    assert problems(unit, kind="policy") == []
    (unit / "model.json").write_text(json.dumps(point | {"trust_remote_code": True}))
    (line,) = folder_problems("eval.policies.mine", unit, kind="policy")
    assert "eval.trust_remote_code=[mine]" in line
    assert list(folder_problems("eval.policies.mine", unit, True, kind="policy")) == []
    (unit / "model.json").write_text("[]")
    assert "model.json" in problems(unit, kind="policy")[0]
    (unit / "model.json").write_text('{"path": 3}')
    assert "'path' is 3" in problems(unit, kind="policy")[0]
    (unit / "model.json").write_text(json.dumps(point | {"adapter": "../x"}))
    assert "'adapter' is '../x'" in problems(unit, kind="policy")[0]
    (unit / "model.json").write_text(json.dumps(point | {"adapter": "adapter"}))
    assert "adapter's folder is missing" in problems(unit, kind="policy")[0]


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({}, None),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; expected LORA"),
        ({"auto_mapping": {"parent_library": "antigravity"}}, "auto_mapping"),
        ({"megatron_core": "my.module"}, "megatron_core is 'my.module'"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
    ],
)
def test_an_adapter_chooses_no_code(tmp_path, changes, pattern):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **changes}))
    safetensors(tmp_path / "adapter_model.safetensors")
    found = list(adapter_problems(KEY, tmp_path))
    assert (found == []) if pattern is None else (len(found) == 1 and pattern in found[0])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    (line,) = adapter_problems(KEY, tmp_path)
    assert "python -m morlaif.models.convert" in line


@pytest.mark.slow
def test_checking_imports_neither_torch_nor_transformers(folder):
    code = (
        "import sys; from morlaif.models.check import folder_problems as f; "
        "assert list(f('k', sys.argv[1])) == []; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("shard", [None, "200KB"])
def test_the_command_converts_what_is_refused(folder, tmp_path, shard, capsys):
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=48, n_layer=2, n_head=2, vocab_size=300, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    made = tmp_path / "pickled"
    model.save_pretrained(made)
    (made / "model.safetensors").unlink()
    state = model.state_dict()  # its head is its embedding: both names share memory
    parts = [state] if shard is None else [dict(list(state.items())[:9]), dict(list(state.items())[9:])]
    for i, part in enumerate(parts):
        name = "pytorch_model.bin" if shard is None else f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save(part, made / name)
    (made / "tokenizer.json").write_text("{}")
    (line,) = problems(made)
    assert f"python -m morlaif.models.convert {made}" in line
    assert convert([str(made)]) == 0 and problems(made) == []
    again = AutoModelForCausalLM.from_pretrained(made, use_safetensors=True, trust_remote_code=False).eval()
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    capsys.readouterr()
    assert convert([str(folder)]) == 2 and "nothing to convert" in capsys.readouterr().err


def test_converting_runs_no_code_of_the_pickle(tmp_path, capsys):
    import pickle

    class Marker:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Marker()}))
    assert convert([str(tmp_path)]) == 2 and not (tmp_path / "ran").exists()
    assert "more than tensors" in capsys.readouterr().err


def test_a_tokenizer_may_lack_rows_for_what_is_never_read_alone():
    """Gemma 3's models of text have a token of images right after their last row."""
    words = [("a", 0), ("b", 1), ("<eos>", 2)]
    assert vocabulary_fault(words, 3, set()) is None and vocabulary_fault(words, 64, set()) is None
    assert vocabulary_fault([*words, ("<image>", 3), ("<pad>", 4)], 3, {"<image>", "<pad>"}) is None
    assert "1 of its tokenizer's 4 tokens have no row of embeddings ('c', ids up to 3; the model has 3 rows)" in str(
        vocabulary_fault([*words, ("c", 3)], 3, {"<pad>"})
    )
    assert "ids up to 9" in str(vocabulary_fault([*words, ("<pad>", 9)], 3, {"<pad>"})), "not right after the last"
    assert vocabulary_fault([*words, ("c", 1)], 3, ()) == "its tokenizer has two tokens of the id 1, 'b' and 'c'"


ODD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "sizes are missing": (
        lambda f: (f / "config.json").write_text('{"model_type": "gpt2", "hidden_size": 8, "vocab_size": 9}'),
        r"config\.json: has no 'n_positions' and no 'n_embd' and no 'n_layer', which a config of the model_type 'gpt2'",
    ),
    "a size is a text": (lambda f: write(f, {"model_type": "llama", "hidden_size": "8"}), "hidden_size is '8'"),
    "a size is below zero": (lambda f: write(f, {"model_type": "llama", "vocab_size": -3}), "vocab_size is -3"),
    "a size is true": (lambda f: write(f, {"model_type": "llama", "num_attention_heads": True}), "heads is True"),
    "no heads": (lambda f: write(f, {"model_type": "gpt2", "n_head": 0}), "n_head is 0"),
    "a size is a list": (lambda f: write(f, {"model_type": "llama", "hidden_size": [8]}), r"hidden_size is \[8\]"),
    "a size is NaN": (lambda f: write(f, {"model_type": "olmo", "hidden_size": float("nan")}), "hidden_size is nan"),
    "a size that is too large": (lambda f: write(f, {"model_type": "gpt2", "n_embd": 10**9}), "1 to 100,000,000"),
    "heads that do not part the width": (
        lambda f: write(f, {"model_type": "llama", "num_attention_heads": 3}), "width of 8 is no multiple of its 3",
    ),
    "heads that do not share keys": (
        lambda f: write(f, {"model_type": "llama", "num_key_value_heads": 4}), "no multiple of its 4 key-value heads",
    ),
    "a table of another size": (
        lambda f: safetensors(f / "model.safetensors", ("model.embed_tokens.weight",)), "2 by 3, .* wants 300 by 8",
    ),
    "bytes as weights": (
        lambda f: safetensors(f / "model.safetensors", ("a.weight",), dtype="I64", shape=[3]), "of the type I64",
    ),
    "an unknown quantization": (
        lambda f: write(f, {"model_type": "llama", "quantization_config": {"quant_method": "odd"}}), "method 'odd'",
    ),
    "a quantization of nothing": (
        lambda f: write(f, {"model_type": "llama", "quantization_config": {"bits": 4}}), "quant_method None",
    ),
    "an unknown tokenizer class": (
        lambda f: (f / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}'),
        r"tokenizer_config\.json: tokenizer_class is 'NoSuchTokenizer'",
    ),
    "words without a row": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 300}}}'),
        "1 of its tokenizer's 2 tokens have no row of embeddings",
    ),
    "ids that are texts": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": {"a": "0"}}}'), r"tokenizer\.json is none",
    ),
    "an end that is no token": (
        lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}'), "'</s>' is no",
    ),
    "sampling that cannot be": (
        lambda f: (f / "generation_config.json").write_text('{"temperature": "hot"}'),
        r"generation_config\.json: temperature is 'hot'",
    ),
    "an end that is a text": (
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [1, "x"]}'), "eos_token_id is 'x'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_a_model_is_one_line(folder, name):
    found = one_line(folder, *ODD[name])
    assert of_path(str(folder)) is None or "/config.json: " not in found


def test_tokenizer_classes_are_known_by_either_name():
    for name in ("LlamaTokenizerFast", "Qwen2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizerFast"):
        assert knows_tokenizer(name)
    assert not knows_tokenizer("LlamaTokeniser") and {"awq", "gptq", "fp8"} <= quantizations()
