"""A fresh head begins with scores of deviation one, however large the states are that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from morlaif.models.load import load_tokenizer
from morlaif.models.settings import LoRASettings
from morlaif.preference.learners import FullLearner, SharedLearner, StackedLearner, Texts, score_texts, state_size
from morlaif.preference.model import Dialogue, load_classifier
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

LARGER = 50.0
LORA = LoRASettings(r=2, alpha=4, dropout=0.0, target_modules="all-linear")
ROWS = [Dialogue(list(range(5, 5 + n)), start) for n, start in ((9, 4), (3, 1), (14, 6), (9, 2), (20, 11), (6, 2))]
QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.05}


@pytest.fixture(scope="module")
def large(llama: Path, tmp_path_factory) -> Path:
    """The same network with last hidden states 50 times as large."""
    path = tmp_path_factory.mktemp("large")
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.norm.weight *= LARGER
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(llama).save_pretrained(path)
    return path


def begun(kind: str, base: Path, count: int):
    """A learner of `count` heads and its texts, as a training begins."""
    tokenizer = load_tokenizer(base)
    model, names = load_classifier(base, tokenizer), [f"p{k}" for k in range(count)]
    draws = [torch.Generator().manual_seed(k) for k in range(count)]
    if kind == "full":
        learner = FullLearner("p0", model, "last", draws[0])
    elif kind == "stacked":
        learner = StackedLearner(names, model, LORA, "last", draws)
    else:
        questions = [[3, 5], [4, 6, 7]] if kind == "questions" else None
        learner = SharedLearner(names, model, LORA, "last", draws[0], questions)
    texts = Texts(ROWS, tokenizer.pad_token_id, torch.device("cpu"))
    learner.size = state_size(learner, texts, range(len(ROWS)), torch.float32)
    return learner, texts


@pytest.mark.parametrize("base", ["llama", "large"])
def test_the_first_scores_have_the_variance_of_a_head_on_unit_states(base: str, request) -> None:
    """h / (h + 1), h = 32: what 600 heads drawn with variance 1 / (h + 1) give on states of mean square 1."""
    learner, texts = begun("shared", request.getfixturevalue(base), 600)
    scores = score_texts(learner, texts, range(len(ROWS)), torch.float32)
    assert scores.square().mean().item() == pytest.approx(32 / 33, abs=0.1)
    states = torch.cat([
        learner.model.model(torch.tensor([row.ids])).last_hidden_state[:, -1].detach() for row in ROWS
    ])  # fmt: skip
    assert learner.size == pytest.approx(states.square().mean().sqrt().item(), rel=1e-5)
    torch.testing.assert_close(scores[:, [7]], states @ learner.adapter(7).head.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["stacked", "shared", "questions", "full"])
def test_the_first_scores_do_not_depend_on_the_size_of_states(kind: str, llama: Path, large: Path, tmp_path) -> None:
    scores, sizes = [], []
    for base in (llama, large):
        learner, texts = begun(kind, base, 1 if kind == "full" else 2)
        scores.append(score_texts(learner, texts, range(len(ROWS)), torch.float32))
        sizes.append(learner.size)
    assert sizes[1] == pytest.approx(LARGER * sizes[0], rel=1e-4)
    assert scores[0].std() > 0.1
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=1e-4)
    if kind == "full":  # transformers alone gives them too
        learner.finish()
        learner.model.save_pretrained(tmp_path)
        alone = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        found = torch.cat([alone(torch.tensor([row.ids])).logits.detach() for row in ROWS])
        torch.testing.assert_close(found, scores[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["toy", "toy_heads"])
def test_nor_does_the_training(preset: str, llama, large, pm_settings, make_pairs, tmp_path) -> None:
    """The same adapter, a head that is 50 times smaller, the same held-out accuracy."""
    (pairs, verdicts), (held, held_verdicts) = make_pairs(24, 0), make_pairs(8, 1)
    left = []
    for base in (llama, large):
        out = tmp_path / base.name
        out.mkdir()
        task = Task("kind", verdicts, held_verdicts, out, "kind?")
        settings = pm_settings(preset, **QUICK)
        report = train_pms([task], Corpus(pairs, held, base), settings, seed=5)["kind"]
        weights = load_file(out / "model" / "adapter_model.safetensors")
        left.append((report.train_loss, weights, json.loads((out / "pm.json").read_text())["accuracy"]["value"]))
    (loss, weights, accuracy), (other_loss, other, other_accuracy) = left
    assert other_loss == pytest.approx(loss, abs=1e-3) and other_accuracy == accuracy
    for name, weight in weights.items():
        factor = LARGER if "score" in name else 1.0
        torch.testing.assert_close(other[name] * factor, weight, atol=2e-3, rtol=1e-2, msg=name)
