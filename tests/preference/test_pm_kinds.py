"""Every kind: the bank's scores are those of each model loaded alone, whatever shares a network in it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from artifacts import dialogue_ids
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
)

from morlaif.errors import UserError
from morlaif.models.place import Source
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.outputs import output_problem
from morlaif.preference.pretrained import PretrainedModel, measure_pretrained
from morlaif.preference.report import PMReport
from morlaif.preference.settings import PretrainedPM
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 0.02, "head_learning_rate": 0.05, "pooling": "last"}


@pytest.fixture(scope="module")
def data(make_pairs):
    return (*make_pairs(32, 0), *make_pairs(12, 1))


@pytest.fixture(scope="module")
def trained(data, llama, gpt2, pm_settings, tmp_path_factory):
    """Folders by base and kind; each kind has the models "a" and "b"."""
    folders: dict[str, dict[str, Path]] = {}

    def get(base: str, preset: str, **change) -> dict[str, Path]:
        key = f"{base}-{preset}-{sorted(change.items())}"
        if key not in folders:
            root = tmp_path_factory.mktemp("kind")
            tasks = []
            for name in "ab":
                (root / name).mkdir()
                tasks.append(Task(name, data[1], data[3], root / name, f"Which is {name}?", "Words."))
            corpus = Corpus(data[0], data[2], llama if base == "llama" else gpt2)
            train_pms(tasks, corpus, pm_settings(preset, **QUICK | change), seed=1)
            folders[key] = {name: root / name for name in "ab"}
        return folders[key]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama", "gpt2"])
@pytest.mark.parametrize("preset", ["toy", "toy_trunk", "toy_heads", "toy_conditioned", "toy_full"])
def test_scores_are_those_of_each_model_loaded_alone(base, preset, trained, data, texts_of) -> None:
    """By transformers and peft alone, one dialogue at a time."""
    folders = trained(base, preset)
    prompts, responses = texts_of(data[2][:6])
    scores = PreferenceBank.load(folders).score(prompts, responses)
    few = PreferenceBank.load(folders, tokens=30).score(prompts, responses)
    torch.testing.assert_close(few, scores, atol=1e-5, rtol=0)
    for column, folder in enumerate(folders.values()):
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        adapter = (folder / "model" / "adapter_config.json").exists()
        auto = AutoPeftModelForSequenceClassification if adapter else AutoModelForSequenceClassification
        more = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id} if adapter else {}
        model = auto.from_pretrained(folder / "model", **more).eval()
        question = json.loads((folder / "pm.json").read_text())["question"]
        assert (question is not None) == (preset == "toy_conditioned")
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            ids = dialogue_ids(tokenizer, prompt, response, 256)
            if question is not None:
                ids += [*tokenizer("\n\n" + question, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                want = model(torch.tensor([ids])).logits[0, 0]
            assert abs(scores[row, column] - want) < 1e-5


@pytest.mark.slow
def test_a_mixed_bank_scores_as_its_parts(trained, data, texts_of) -> None:
    rows = texts_of(data[2][:6])
    kinds = ("toy", "toy_trunk", "toy_heads", "toy_conditioned", "toy_full", "toy_ensemble")
    folders = {f"{kind}-{name}": folder for kind in kinds for name, folder in trained("llama", kind).items()}
    mixed = PreferenceBank.load(folders)
    scores = mixed.score(*rows)
    for column, (name, folder) in enumerate(folders.items()):
        torch.testing.assert_close(
            PreferenceBank.load({name: folder}).score(*rows)[:, 0], scores[:, column], atol=1e-5, rtol=0
        )
    storages = {weight.untyped_storage().data_ptr() for module in mixed.modules() for weight in _embeddings(module)}
    assert len(storages) == 3  # one base for all adapters, and two whole models


def _embeddings(module):
    return [module.get_input_embeddings().weight]


def test_half_precision_is_near(trained, data, texts_of) -> None:
    folders = trained("llama", "toy_trunk")
    rows = texts_of(data[2][:6])
    half = PreferenceBank.load(folders, dtype=torch.bfloat16).score(*rows)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, PreferenceBank.load(folders).score(*rows), atol=0.15, rtol=0.1)


def test_an_adapter_in_the_wrong_folder_is_named(trained, tmp_path) -> None:
    """Of the same shape, so that nothing else would show it."""
    folders = trained("llama", "toy")
    wrong = shutil.copytree(folders["b"], tmp_path / "b")
    shutil.copy(folders["a"] / "model" / "adapter_model.safetensors", wrong / "model")
    with pytest.raises(UserError, match=r"preference model 'b': the adapter in .* is not the one"):
        PreferenceBank.load({"a": folders["a"], "b": wrong})


@pytest.mark.slow
@pytest.mark.parametrize("base", ["llama", "gpt2"])
@pytest.mark.parametrize("preset", ["toy", "toy_trunk", "toy_heads", "toy_ensemble"])
def test_models_score_on_a_policys_frozen_base(base, preset, trained, data, texts_of, request) -> None:
    """No base is loaded, the policy's adapter does not show, and the policy does not see the preference models'."""
    folders = trained(base, preset)
    rows = texts_of(data[2][:4])
    want = PreferenceBank.load(folders).score(*rows)
    policy = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(base)).eval()
    adapted = get_peft_model(
        policy, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    )
    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        before = adapted(ids).logits
        bank = PreferenceBank.load(folders, shared=policy)
        torch.testing.assert_close(bank.score(*rows), want, atol=1e-5, rtol=0)
        assert torch.equal(adapted(ids).logits, before)
    own = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    (network,) = bank.modules()
    theirs = [w for n, w in network.named_parameters() if "lora_" not in n and not n.startswith("score")]
    assert theirs and all(weight.untyped_storage().data_ptr() in own for weight in theirs)


def test_another_base_is_not_shared(trained, gpt2, data, texts_of) -> None:
    folders = trained("llama", "toy")
    rows = texts_of(data[2][:4])
    stranger = AutoModelForCausalLM.from_pretrained(gpt2)
    torch.testing.assert_close(
        PreferenceBank.load(folders, shared=stranger).score(*rows), PreferenceBank.load(folders).score(*rows)
    )


# models from elsewhere

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def decoder(gpt2, tmp_path_factory) -> Path:
    """With its own template, and with EOS for a pad token: where a score is easily read one token too early."""
    folder = tmp_path_factory.mktemp("decoder")
    torch.manual_seed(3)
    model = GPT2ForSequenceClassification.from_pretrained(gpt2, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, tokenizer.eos_token
    model.config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tokenizer, gpt2, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, num_labels=1, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    own = AutoTokenizer.from_pretrained(gpt2)
    own.chat_template = None
    own.save_pretrained(folder)
    return folder


def other(paths: dict[str, str], **change) -> PretrainedPM:
    plain = {"kind": "pretrained", "paths": paths, "revisions": {}, "max_length": 128, "trust_remote_code": False}
    plain["output"] = None
    return PretrainedPM(**plain | change)


def measured(name: str, path: str, data, out: Path) -> PMReport:
    corpus = Corpus(data[0], data[2], None)
    return measure_pretrained(Task(name, data[1], data[3], out, "Kind?"), corpus, other({name: path}))


@pytest.mark.slow
def test_models_from_elsewhere_read_their_own_words(decoder, encoder, data, texts_of, tmp_path) -> None:
    folders = {}
    for name, path in (("decoder", decoder), ("encoder", encoder)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        report = measured(name, str(path), data, folders[name])
        assert report.accuracy["n"] == 12 and report.length_baseline["value"] is not None
        assert not list((folders[name] / "model").glob("*.safetensors"))  # the weights stay where they are
        assert "used as it is" in (folders[name] / "model" / "README.md").read_text()
    prompts, responses = texts_of(data[2][:6])
    scores = PreferenceBank.load(folders).score(prompts, responses)

    tokenizer, model = (
        AutoTokenizer.from_pretrained(decoder),
        AutoModelForSequenceClassification.from_pretrained(decoder),
    )
    pair = AutoTokenizer.from_pretrained(encoder), AutoModelForSequenceClassification.from_pretrained(encoder)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": response}], tokenize=False)
        with torch.no_grad():
            states = (
                model.eval()
                .transformer(**tokenizer(text, return_tensors="pt", add_special_tokens=False))
                .last_hidden_state
            )
            assert abs(model.score(states[0, -1]) - scores[row, 0]) < 1e-5  # the last token, EOS, whatever the pad
            given = pair[0](prompt[-1]["content"], response, return_tensors="pt")
            assert abs(pair[1].eval()(**given).logits[0, 0] - scores[row, 1]) < 1e-5


def test_long_dialogues_lose_their_beginning_whatever_the_model(decoder, encoder, chat, tmp_path) -> None:
    for path in (decoder, encoder):
        model = PretrainedModel.load("x", Source(str(path)), 40)
        long, short = (model.encode(chat("river stone " * n), "kindly bread window") for n in (60, 2))
        assert len(long.ids) <= 40 and long.ids[-4:] == short.ids[-4:]


def test_wrong_models_from_elsewhere_are_reported_in_one_line(llama, gpt2, decoder, data, tmp_path) -> None:
    def measure(path: str):
        return measured("x", path, data, tmp_path)

    with pytest.raises(UserError, match=r"pm\.paths\.x='.*nowhere': no such folder"):
        measure(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"pm\.paths\.x=.* no weights for score\.weight"):
        bare = tmp_path / "bare"
        AutoModelForCausalLM.from_pretrained(gpt2).save_pretrained(bare)
        AutoTokenizer.from_pretrained(gpt2).save_pretrained(bare)
        config = json.loads((bare / "config.json").read_text()) | {"num_labels": 1, "id2label": {"0": "x"}}
        (bare / "config.json").write_text(json.dumps(config))
        config["architectures"] = ["GPT2ForSequenceClassification"]
        (bare / "config.json").write_text(json.dumps(config))
        measure(str(bare))
    with pytest.raises(UserError, match=r"pm\.paths\.x=.* expected a trained reward model"):
        (bare / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
        measure(str(bare))
    with pytest.raises(UserError, match="gives 2 scores"):
        two = tmp_path / "two"
        GPT2ForSequenceClassification.from_pretrained(gpt2, num_labels=2).save_pretrained(two)
        AutoTokenizer.from_pretrained(gpt2).save_pretrained(two)
        measure(str(two))


@pytest.fixture(scope="module")
def several(decoder, tmp_path_factory) -> Path:
    """A reward model with a score for each of three attributes."""
    folder = tmp_path_factory.mktemp("several")
    torch.manual_seed(5)
    names = ["helpfulness", "correctness", "Verbosity"]
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    GPT2ForSequenceClassification.from_pretrained(
        decoder, num_labels=3, id2label=dict(enumerate(names)), ignore_mismatched_sizes=True
    ).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("output", "column"), [("correctness", 1), ("verbosity", 2), (0, 0), ({"x": 2}, 2)])
def test_one_of_several_scores_is_the_reward(several, data, texts_of, tmp_path, output, column) -> None:
    corpus = Corpus(data[0], data[2], None)
    report = measure_pretrained(
        Task("x", data[1], data[3], tmp_path, "Kind?"), corpus, other({"x": str(several)}, output=output)
    )
    assert report.base["output"] == column
    prompts, responses = texts_of(data[2][:2])
    scores = PreferenceBank.load({"x": tmp_path}).score(prompts, responses)
    tokenizer = AutoTokenizer.from_pretrained(several)
    model = AutoModelForSequenceClassification.from_pretrained(several).eval()
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": response}], tokenize=False)
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            wanted = model.score(model.transformer(ids).last_hidden_state[0, -1])[column]
        assert abs(wanted - scores[row, 0]) < 1e-5


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (None, r"gives 3 scores \(0 helpfulness, 1 correctness, 2 Verbosity\); say which .*pm.output="),
        (3, r"pm.output=3: there is no such score; its scores: 0 helpfulness"),
        ("corectness", r"no such score.*Did you mean 'correctness'"),
        ({"y": 1}, "gives 3 scores"),
    ],
)
def test_the_scores_of_a_model_are_listed_where_none_is_meant(several, output, line) -> None:
    settings = other({"x": str(several)}, output=output)
    assert re.search(line, output_problem("pm.paths.x", str(several), settings.output_of("x")))
    with pytest.raises(UserError, match=line):
        PretrainedModel.load("x", settings.source("x"), 40, output=settings.output_of("x"))


@pytest.mark.slow
def test_weights_that_changed_since_are_reported(decoder, data, tmp_path) -> None:
    path = shutil.copytree(decoder, tmp_path / "model")
    (out := tmp_path / "out").mkdir()
    measured("x", str(path), data, out)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(2)
    model.save_pretrained(path)
    with pytest.raises(UserError, match=r"'x': the weights at .* are no longer those"):
        PreferenceBank.load({"x": out})
