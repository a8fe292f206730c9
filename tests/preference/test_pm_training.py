"""A preference model learns, is reproducible, loads without this project, and the bank scores as it does alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from artifacts import dialogue_ids
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.scoring import length_buckets
from morlaif.preference.train import train_pm

pytestmark = pytest.mark.slow

QUICK = {"epochs": 3, "batch_size": 8, "pooling": "last", "learning_rate": 0.01, "head_learning_rate": 0.05}


@pytest.fixture(scope="module")
def data(make_pairs):
    return (*make_pairs(96, 0), *make_pairs(40, 1))


def train(data, base, settings, out: Path, principle: str = "kindness", seed: int = 0, **more):
    out.mkdir(parents=True, exist_ok=True)
    return train_pm(*data, base, settings, principle=principle, out=out, seed=seed, **more)


@pytest.fixture(scope="module")
def trained(data, llama, gpt2, pm_settings, tmp_path_factory, make_pairs) -> dict[str, Path]:
    """Models of either kind and pooling; "b" learned the opposite of "a", with another rank."""
    root = tmp_path_factory.mktemp("pms")
    turned = (*make_pairs(96, 2, good="rudely", bad="kindly"), *data[2:])
    lora = pm_settings("toy", **QUICK)
    train(data, llama, lora, root / "a", "a")
    train(turned, llama, pm_settings("toy", **QUICK, lora={"r": 3, "target_modules": ["q_proj"]}), root / "b", "b")
    train(data, llama, pm_settings("toy", **QUICK | {"pooling": "mean"}), root / "mean", "mean")
    train(data, llama, pm_settings("full", **QUICK), root / "full", "full")
    train(data, gpt2, lora, root / "gpt2", "gpt2")
    return {path.name: path for path in sorted(root.iterdir())}


def report(folder: Path) -> dict:
    return json.loads((folder / "pm.json").read_text())


@pytest.mark.parametrize("name", ["a", "mean", "full"])
def test_it_learns_what_the_judge_says(trained, name: str) -> None:
    accuracy = report(trained[name])["accuracy"]
    assert accuracy["value"] >= 0.85 and accuracy["n"] == 40
    assert accuracy["low"] < accuracy["value"] <= accuracy["high"]
    assert report(trained[name])["length_baseline"]["value"] < 0.75


def test_the_opposite_principle_scores_the_opposite(trained) -> None:
    assert report(trained["b"])["accuracy"]["value"] <= 0.2


def _reference(folder: Path, base: Path, prompts, responses) -> torch.Tensor:
    """Scores by transformers and peft alone, one dialogue at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    if (folder / "model" / "adapter_config.json").exists():
        whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        model = PeftModel.from_pretrained(whole, folder / "model")
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    model.eval()
    scores = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([dialogue_ids(tokenizer, prompt, response, 256)])
        with torch.no_grad():
            scores.append(model(input_ids=ids).logits[0, 0])
    return torch.stack(scores)


def test_the_bank_scores_as_each_model_alone(trained, llama, gpt2, data, texts_of) -> None:
    prompts, responses = texts_of(data[2][:12])
    names = ["full", "b", "gpt2", "a"]
    bank = PreferenceBank.load({name: trained[name] for name in names})
    scores = bank.score(prompts, responses)
    assert bank.names == tuple(names) and scores.shape == (24, 4) and scores.dtype == torch.float32
    for column, name in enumerate(names):
        want = _reference(trained[name], gpt2 if name == "gpt2" else llama, prompts, responses)
        torch.testing.assert_close(scores[:, column], want, atol=1e-5, rtol=0)


def test_scores_do_not_depend_on_company_order_or_budget(trained, data, texts_of) -> None:
    prompts, responses = texts_of(data[2][:10])
    names = ("a", "b", "mean")
    wide = PreferenceBank.load({name: trained[name] for name in names}).score(prompts, responses)
    narrow = PreferenceBank.load({name: trained[name] for name in names}, tokens=40).score(prompts, responses)
    torch.testing.assert_close(narrow, wide, atol=1e-5, rtol=0)
    turned = PreferenceBank.load({n: trained[n] for n in names[::-1]}).score(prompts[::-1], responses[::-1])
    torch.testing.assert_close(turned.flip(0, 1), wide, atol=1e-5, rtol=0)
    one = PreferenceBank.load({"mean": trained["mean"]}).score(prompts[:1], responses[:1])
    torch.testing.assert_close(one, wide[:1, 2:], atol=1e-5, rtol=0)


def test_it_loads_with_peft_alone(trained, data, texts_of) -> None:
    prompts, responses = texts_of(data[2][:4])
    folder = trained["a"] / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoPeftModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
    ).eval()
    rows = [dialogue_ids(tokenizer, p, r, 256) for p, r in zip(prompts, responses, strict=True)]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    scores = PreferenceBank.load({"a": trained["a"]}).score(prompts, responses)[:, 0]
    torch.testing.assert_close(logits, scores, atol=1e-5, rtol=0)
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card and f"{report(trained['a'])['accuracy']['value']:.3f}" in card


def test_the_same_seed_gives_the_same_weights(data, llama, pm_settings, tmp_path) -> None:
    settings = pm_settings("toy", **QUICK | {"epochs": 1}, lora={"dropout": 0.1})
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        torch.manual_seed(hash(name) % 1000)  # the world's own generator must not matter …
        train(data, llama, settings, tmp_path / name, seed=seed)
    weights = [load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("one", "two", "other")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])
    assert (tmp_path / "one" / "pm.json").read_text() == (tmp_path / "two" / "pm.json").read_text()


def test_training_leaves_the_global_generator_alone(data, llama, pm_settings, tmp_path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train(data, llama, pm_settings("toy", **QUICK | {"epochs": 1}), tmp_path / "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_accumulated_batches_give_the_same_training(data, llama, pm_settings, tmp_path) -> None:
    for name, micro in (("whole", None), ("parts", 2)):
        settings = pm_settings("toy", **QUICK | {"epochs": 1, "micro_batch_size": micro})
        train(data, llama, settings, tmp_path / name)
    whole, parts = (report(tmp_path / name) for name in ("whole", "parts"))
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-3)


def test_gradient_checkpointing_changes_nothing(data, llama, pm_settings, tmp_path) -> None:
    for kind in ("toy", "full"):
        for on in (False, True):
            settings = pm_settings(kind, **QUICK | {"epochs": 1, "gradient_checkpointing": on})
            train(data, llama, settings, tmp_path / f"{kind}{on}")
        plain, saved = (report(tmp_path / f"{kind}{on}") for on in (False, True))
        assert saved["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-5)


@pytest.mark.parametrize("change", [{"loss": "margin"}, {"center": 0.05}, {"ties": "drop"}, {"schedule": "constant"}])
def test_variants_learn_too(data, llama, pm_settings, tmp_path, change) -> None:
    assert train(data, llama, pm_settings("toy", **QUICK | change), tmp_path / "x").accuracy["value"] >= 0.8


def test_centring_holds_the_offset(data, llama, pm_settings, tmp_path, texts_of) -> None:
    offset = {}
    for center in (0.0, 0.1):
        train(data, llama, pm_settings("toy", **QUICK, center=center), tmp_path / str(center))
        scores = PreferenceBank.load({"x": tmp_path / str(center)}).score(*texts_of(data[2]))
        offset[center] = scores.mean().abs()
    assert offset[0.1] < 0.5 and offset[0.1] <= offset[0.0] + 0.05


def test_invalid_verdicts_are_counted_and_left_out(data, llama, pm_settings, tmp_path) -> None:
    pairs, verdicts, *held = data
    broken = [dataclasses.replace(v, valid=False, p_first=None) if i < 10 else v for i, v in enumerate(verdicts)]
    settings = pm_settings("toy", **QUICK | {"epochs": 1})
    result = train((pairs, broken[::-1], *held), llama, settings, tmp_path / "x")  # joined by id: any order will do
    assert result.pairs == {"train": 86, "held_out": 40, "invalid": 10, "ties": 0}
    none = [dataclasses.replace(v, valid=False, p_first=None) for v in verdicts]
    with pytest.raises(UserError, match="pm/kindness: none of 96 verdicts"):
        train((pairs, none, *held), llama, settings, tmp_path / "x")
    stranger = dataclasses.replace(verdicts[0], pair_id="feedfeedfeedfeed")
    with pytest.raises(UserError, match="'feedfeedfeedfeed': no such pair"):
        train((pairs, [stranger], *held), llama, settings, tmp_path / "x")


def test_what_is_too_long_is_cut_alike_in_training_and_scoring(data, llama, pm_settings, tmp_path, chat) -> None:
    """A long prompt, a long response, and a pair that differs only in what is cut."""
    from morlaif.preference.pairs import prompt_room

    tail = "river stone cloud bread " * 30
    long = [
        Pair.of(chat(tail), "kindly river", "rudely " + "stone " * 30),
        Pair.of(chat("window"), tail + "kindly", tail + "rudely"),
    ]
    pairs, verdicts = [*data[0], *long], [*data[1], *(Verdict(pair.id, 0.9, 0.0, True, "test") for pair in long)]
    report = train_pm(
        pairs, verdicts, *data[2:], llama, pm_settings(max_length=160), principle="kind", out=tmp_path, seed=0
    )
    assert report.cut["train"]["pairs"] == 2 and report.cut["train"]["equal"] == 1
    assert report.cut["train"]["prompt_tokens"] > 30 and report.cut["train"]["response_tokens"] > 100
    assert report.cut["held_out"] == {"pairs": 0, "prompt_tokens": 0, "response_tokens": 0, "equal": 0}
    assert report.pairs["train"] == len(pairs) - 1, "the pair that is equal after the cut is left out"
    assert report.max_prompt == 120
    assert prompt_room([3] * 9 + [60], 64) == 32 and prompt_room([9] * 400 + [60], 64) == 48
    assert "2 were cut" in (tmp_path / "model" / "README.md").read_text()
    (reader,) = PreferenceBank.load({"kind": tmp_path})._readers
    rows = [reader.encode(long[0].messages, text) for text in (long[0].first, long[0].second)]
    assert rows[0].ids[: rows[0].start] == rows[1].ids[: rows[1].start] and 80 < rows[0].start <= 120


def test_a_missing_or_foreign_adapter_is_named(trained, llama, gpt2, tmp_path) -> None:
    with pytest.raises(UserError, match=r"'empathy': .*pm\.json is missing"):
        PreferenceBank.load({"a": trained["a"], "empathy": tmp_path / "nowhere"})
    gone = shutil.copytree(trained["b"], tmp_path / "gone")
    (gone / "model" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"'b': .*adapter_model\.safetensors is missing"):
        PreferenceBank.load({"a": trained["a"], "b": gone})
    with pytest.raises(UserError, match="'a': its adapter was trained on"):
        PreferenceBank.load({"a": trained["a"]}, base=gpt2)
    swapped = shutil.copytree(trained["b"], tmp_path / "swapped")
    shutil.copy(trained["gpt2"] / "model" / "adapter_model.safetensors", swapped / "model")
    with pytest.raises(UserError, match="'b': its adapter changes 'transformer"):
        PreferenceBank.load({"a": trained["a"], "b": swapped})
    narrow = shutil.copytree(trained["b"], tmp_path / "narrow")
    path = narrow / "model" / "adapter_model.safetensors"
    save_file({k: v[:, :20].contiguous() if "lora_A" in k else v for k, v in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"'b': its adapter of '.*' is 32 by 20"):
        PreferenceBank.load({"b": narrow})
    with pytest.raises(UserError, match="at least one principle"):
        PreferenceBank.load({})


def test_the_base_may_have_moved(trained, llama, tmp_path, data, texts_of) -> None:
    moved = shutil.copytree(llama, tmp_path / "elsewhere")
    rows = texts_of(data[2][:3])
    here = PreferenceBank.load({"a": trained["a"]}).score(*rows)
    torch.testing.assert_close(PreferenceBank.load({"a": trained["a"]}, base=moved).score(*rows), here, atol=0, rtol=0)


def test_the_base_is_held_once(trained) -> None:
    names = ("a", "b", "a2")
    bank = PreferenceBank.load({name: trained[name.rstrip("2")] for name in names})
    assert len(list(bank.modules())) == 1


def test_buckets_hold_every_row_once_and_keep_the_budget() -> None:
    lengths = [5, 90, 7, 7, 6, 300, 12, 5, 5, 5, 5, 5, 80, 85]
    buckets = list(length_buckets(lengths, tokens=200))
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        rows = [lengths[i] for i in bucket]
        assert len(rows) == 1 or len(rows) * max(rows) <= 200
        assert len(rows) <= 8 or max(rows) <= 1.25 * min(rows)
