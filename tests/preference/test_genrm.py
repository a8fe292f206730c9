"""The judge fine-tuned on verdicts: its loss, what it learns, and that its unit's folder judges."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from morlaif.data.records import Message, Pair
from morlaif.feedback.judge import open_judge
from morlaif.feedback.local import LetterModel
from morlaif.feedback.prompt import comparison_messages
from morlaif.feedback.records import Comparison, Verdict
from morlaif.feedback.settings import HfSettings, Principle
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.genrm import GenerativeRM, indicator_loss
from morlaif.preference.tasks import Corpus, Task
from morlaif.presets import preset

ASKED = Principle(name="asked", question="Which is more?", description="More is better.", covers=("asked",))


def test_it_is_the_binary_cross_entropy_of_the_gap_where_the_letters_carry_all_mass():
    gap = torch.linspace(-6, 6, 25, requires_grad=True)
    p = torch.rand(25, generator=torch.Generator().manual_seed(0))
    letters = torch.stack([gap / 2, -gap / 2], 1).log_softmax(1)  # P(A) + P(B) = 1
    one, other = indicator_loss(letters, p), F.binary_cross_entropy_with_logits(gap, p, reduction="none")
    assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(
        *(torch.autograd.grad(loss.sum(), gap, retain_graph=True)[0] for loss in (one, other)), atol=1e-6
    )
    hard = indicator_loss(letters, torch.ones(25))
    assert torch.allclose(hard, -letters[:, 0])  # −log P(I)
    lost = letters - 1.0  # mass elsewhere costs what it is, whatever the gap
    assert torch.allclose(indicator_loss(lost, p), one + 1.0, atol=1e-6)


def pairs_of(count: int, begin: int = 0) -> list[Pair]:
    """Which of two words the better response holds."""
    made = []
    for i in range(begin, begin + count):
        texts = (f"good {i % 7}", f"bad {i % 5}") if i % 2 else (f"bad {i % 5}", f"good {i % 7}")
        prompt: list[Message] = [{"role": "user", "content": f"Q {i}"}]
        made.append(Pair.of(prompt, *texts, human=float(i % 2)))
    return made


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A tiny model taught that "good" is better, its folder, and the pairs."""
    home = tmp_path_factory.mktemp("genrm")
    train, held = pairs_of(48), pairs_of(16, 100)
    texts = [m["content"] for p in train for m in comparison_messages(p.messages, p.first, p.second, ASKED)]
    sizes = {"layers": 2, "heads": 2, "intermediate_size": 48, "max_positions": 256, "tie_embeddings": True}
    tokenizer = train_tokenizer([*texts, "A B A B"], 700)
    scratch = ScratchSettings(vocab_size=700, hidden_size=32, init_std=0.1, **sizes)
    build_causal_lm(scratch, tokenizer, seed=0).save_pretrained(home / "base")
    tokenizer.save_pretrained(home / "base")
    verdicts = [[Verdict(p.id, p.human, 0.0, True, "j") for p in some] for some in (train, held)]
    task = Task("asked", *verdicts, home / "unit", "Which is more?", "More is better.")
    own = GenerativeRM(epochs=12, batch_size=16, learning_rate=3e-3, r=None)
    own.train(task, Corpus(train, held, home / "base"), home / "unit" / "model", seed=0)
    return own, home / "unit", train, held


@pytest.mark.slow
def test_it_learns_verdicts_and_scores_against_a_reference(learnt):
    own, unit, _, held = learnt
    score = own.load(unit / "model", None, torch.device("cpu"))
    prompts = [pair.messages for pair in held]
    first, second = (score(prompts, [getattr(pair, side) for pair in held]) for side in ("first", "second"))
    assert not second.any()  # the reference itself
    right = ((first > 0) == torch.tensor([pair.human == 1.0 for pair in held])).float().mean()
    assert right > 0.9
    elsewhere = score([[{"role": "user", "content": "New"}]] * 2, ["good 3", "bad 3"])
    assert elsewhere[0] > elsewhere[1]  # of a prompt that no pair has


@pytest.mark.slow
def test_its_units_folder_is_a_judge_whose_verdict_is_the_difference_of_scores(learnt, tmp_path):
    own, unit, _, held = learnt
    settings = HfSettings(**preset("feedback", "hf") | {"path": str(unit), "device": "cpu"})
    judge = open_judge(settings, ledger=tmp_path / "l", seed=0)
    verdicts = {asked.id: verdict for asked, verdict in judge.judge(Comparison.of(pair, ASKED) for pair in held)}
    score = own.load(unit / "model", None, torch.device("cpu"))
    scores = score([pair.messages for pair in held], [pair.first for pair in held])
    for pair, value in zip(held, scores.tolist(), strict=True):
        verdict = verdicts[pair.id]
        assert (verdict.d_forward - verdict.d_backward) / 2 == pytest.approx(value, abs=1e-3)


@pytest.mark.slow
def test_an_adapter_learns_too_and_leaves_a_whole_model(learnt, tmp_path):
    _, unit, train, _ = learnt
    verdicts = [Verdict(p.id, p.human, 0.0, True, "j") for p in train[:8]]
    task = Task("asked", verdicts, [], tmp_path / "unit")
    own = GenerativeRM(epochs=1, batch_size=8, r=2, soft=False)
    own.train(task, Corpus(train[:8], [], unit / "model"), tmp_path / "unit" / "model", seed=0)
    assert (
        own.load(tmp_path / "unit" / "model", None, torch.device("cpu"))([train[0].messages], ["good 1"])
        .isfinite()
        .all()
    )


@pytest.mark.slow
def test_a_batch_in_several_forwards_teaches_what_one_forward_does(learnt, tmp_path, monkeypatch):
    _, unit, train, _ = learnt
    verdicts = [Verdict(p.id, p.human, 0.0, True, "j") for p in train[:8]]
    weights, widest = [], []
    padded = LetterModel.padded

    def seen(engine, rows, left):
        ids, mask = padded(engine, rows, left)
        widest[-1] = max(widest[-1], ids.numel())
        return ids, mask

    monkeypatch.setattr(LetterModel, "padded", seen)
    for tokens in (10**6, 300, 1):
        widest.append(0)
        folder = tmp_path / str(tokens) / "model"
        own = GenerativeRM(epochs=1, batch_size=8, learning_rate=1e-3, r=None, micro_tokens=tokens)
        own.train(Task("asked", verdicts, [], folder.parent), Corpus(train[:8], [], unit / "model"), folder, seed=0)
        weights.append(load_file(folder / "model.safetensors"))
    assert widest[0] > 600 > 300 >= widest[1] >= widest[2]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4) and torch.allclose(value, weights[2][name], atol=1e-4)
