"""The judge that learns from its own reasoning: what it prefers, by which loss, and that it gets better."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from morlaif.data.chat import response_ids
from morlaif.data.control import plain_ids
from morlaif.data.records import Message, Pair
from morlaif.errors import UserError
from morlaif.feedback.local import LetterModel
from morlaif.feedback.prompt import thinking_messages
from morlaif.feedback.reasoning import Reasoner
from morlaif.feedback.records import Verdict
from morlaif.feedback.settings import Principle, ThoughtSettings
from morlaif.models.load import load_causal_lm, load_tokenizer
from morlaif.models.place import Source
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.preference.rationales import (
    Reasoning,
    ReasoningRM,
    completion_logprobs,
    preferred,
    rationale_dpo,
    sampled,
)
from morlaif.preference.tasks import Corpus, Task

ASKED = Principle(name="asked", question="Which is more?", description="More is better.", covers=("asked",))


def pairs_of(count: int, begin: int = 0) -> list[Pair]:
    made = []
    for i in range(begin, begin + count):
        texts = ("good", "bad") if i % 2 else ("bad", "good")
        prompt: list[Message] = [{"role": "user", "content": f"Q {i % 9}"}]
        made.append(Pair.of(prompt, *texts, human=float(i % 2)))
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    home = tmp_path_factory.mktemp("base")
    texts = [m["content"] for p in pairs_of(9) for m in thinking_messages(p.messages, p.first, p.second, ASKED)]
    sizes = {"layers": 2, "heads": 2, "intermediate_size": 48, "max_positions": 320, "tie_embeddings": True}
    tokenizer = train_tokenizer([*texts, "A B A B", "Answer: A Answer: B"], 600)
    scratch = ScratchSettings(vocab_size=600, hidden_size=32, init_std=0.1, **sizes)
    build_causal_lm(scratch, tokenizer, seed=0).save_pretrained(home)
    tokenizer.save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def engine(base):
    tokenizer = load_tokenizer(Source(str(base)))
    return LetterModel(load_causal_lm(Source(str(base)), tokenizer=tokenizer), tokenizer, 8)


def test_log_probabilities_are_those_of_the_models_own_forward(engine):
    rows = [([5, 6, 7, 8], [9, 10]), ([11, 12], [13, 14, 15, 16]), ([17], [18])]
    found = completion_logprobs(engine, rows)
    for (prompt, completion), value in zip(rows, found.tolist(), strict=True):
        with torch.no_grad():
            logits = engine.model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        own = sum(float(logits[len(prompt) - 1 + k, token]) for k, token in enumerate(completion))
        assert value == pytest.approx(own, abs=1e-4)


@given(st.lists(st.tuples(*[st.floats(-30, 0)] * 4), min_size=1, max_size=6), st.floats(0.05, 3))
def test_the_loss_is_dpos(rows, beta):
    right, wrong, right0, wrong0 = torch.tensor(rows, dtype=torch.float64).T
    by_hand = [math.log1p(math.exp(-beta * ((a - c) - (b - d)))) for a, b, c, d in rows]
    assert torch.allclose(rationale_dpo(right, wrong, right0, wrong0, beta), torch.tensor(by_hand, dtype=torch.float64))
    at_start = rationale_dpo(right, wrong, right, wrong, beta)
    assert torch.allclose(at_start, torch.full_like(at_start, math.log(2)))


def test_a_right_one_is_preferred_to_a_wrong_one_about_the_same_question():
    def one(question: int, token: int, right: bool) -> Reasoning:
        return Reasoning(question, [1], [token], right)

    found = [one(0, 1, True), one(0, 2, False), one(0, 3, False), one(1, 4, True), one(2, 5, False), one(2, 6, True)]
    assert [(a.completion[0], b.completion[0]) for a, b in preferred(found)] == [(1, 2), (6, 5)]


@pytest.mark.slow
def test_what_is_sampled_is_its_own_text_closed_by_the_letter_that_it_reads(engine):
    questions = [(engine.stem([thinking_messages(p.messages, p.first, p.second, ASKED)]), 1.0) for p in pairs_of(3)]
    thought = ThoughtSettings(max_tokens=16, samples=3, temperature=1.0)
    found = sampled(engine, questions, thought, seed=3)
    assert [one.question for one in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found == sampled(engine, questions, thought, seed=3) != sampled(engine, questions, thought, seed=4)
    for one in found:
        stem = engine.stem([[{"role": "user", "content": "x"}]])
        stem = type(stem)(one.prompt, [one.completion[:-1]])
        ((a, b),) = next(iter(engine.logprobs([stem])))
        letter = engine.tokenizer.decode(one.completion[-1:]).strip()
        assert letter == ("A" if a > b else "B") and one.right == (letter == "A")


def short(a: str, b: str) -> list[Message]:
    """A question that a model of two layers learns to read in seconds."""
    return [{"role": "user", "content": f"{a} or {b}?"}]


class Short(ReasoningRM):
    def _asks(self, messages, a, b, asked):
        return short(a, b)


@pytest.fixture(scope="module")
def warm(engine, tmp_path_factory):
    """A judge that reasons in few words and is right about seven times in ten."""
    home, draw = tmp_path_factory.mktemp("warm"), random.Random(0)
    closing = Reasoner(engine, ThoughtSettings(max_tokens=16, samples=1, temperature=0.0)).closing
    rows = []
    for pair in pairs_of(40):
        for a, b, best in ((pair.first, pair.second, pair.human), (pair.second, pair.first, 1 - pair.human)):
            stem = engine.stem([short(a, b)])
            prompt = stem.prefix + stem.endings[0]
            for _ in range(6):
                letter = "A" if (best == 1.0) == (draw.random() < 0.75) else "B"
                said = response_ids(engine.tokenizer, f"{letter} is good")  # it ends by itself
                rows += [(prompt, said), (prompt + said[:-1] + closing, plain_ids(engine.tokenizer, f" {letter}"))]
    model = copy.deepcopy(engine.model)
    own = LetterModel(model, engine.tokenizer, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = -completion_logprobs(own, draw.sample(rows, 32)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(home)
    engine.tokenizer.save_pretrained(home)
    return home


def right_share(folder, held) -> float:
    """Of sampled answers about unseen pairs."""
    tokenizer = load_tokenizer(Source(str(folder)))
    judge = LetterModel(load_causal_lm(Source(str(folder)), tokenizer=tokenizer), tokenizer, 32)
    questions = [(judge.stem([short(p.first, p.second)]), p.human) for p in held]
    found = sampled(judge, questions, ThoughtSettings(max_tokens=16, samples=8, temperature=1.0), seed=9)
    return sum(one.right for one in found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["star", "star_dpo"])
def test_rounds_of_its_own_reasoning_teach_it_the_verdicts(method, warm, tmp_path):
    """Which letter is right is all that it is told."""
    train, held = pairs_of(40), pairs_of(24, 100)
    before = right_share(warm, held)
    verdicts = [[Verdict(p.id, p.human, 0.0, True, "j") for p in some] for some in (train, held)]
    own = Short(
        method=method, rounds=2, samples=4, max_tokens=16, votes=2, batch_size=16, learning_rate=1e-3, r=None, beta=0.3
    )
    task = Task("asked", *verdicts, tmp_path, "Which is more?", "More is better.")
    own.train(task, Corpus(train, held, warm), tmp_path / "model", seed=0)
    after = right_share(tmp_path / "model", held)
    assert 0.5 < before < 0.85 and after > before + 0.1
    score = own.load(tmp_path / "model", None, torch.device("cpu"))
    prompts = [pair.messages for pair in held]
    first = score(prompts, [pair.first for pair in held])
    assert torch.equal(first, score(prompts, [pair.first for pair in held]))  # votes are drawn alike each time
    turned = score(prompts[::-1], [pair.first for pair in held[::-1]])
    assert torch.allclose(turned.flip(0), first, atol=1e-4)  # and whatever else is asked beside


def test_soft_labels_are_no_letters():
    with pytest.raises(UserError, match=r"pm\.params\.soft"):
        ReasoningRM(soft=True)


def test_star_learns_by_the_likelihood_of_the_right_ones(engine):
    """One batch: the loss is the mean cross-entropy summed over tokens, by torch's own."""
    rows = [Reasoning(0, [5, 6], [7, 8], True), Reasoning(1, [9], [10], True)]
    own = ReasoningRM(method="star", r=None)
    found = -own._log(engine, rows).mean()
    with torch.no_grad():
        by_torch = []
        for one in rows:
            logits = engine.model(torch.tensor([one.prompt + one.completion])).logits[0, len(one.prompt) - 1 : -1]
            by_torch.append(F.cross_entropy(logits, torch.tensor(one.completion), reduction="sum"))
    assert found.item() == pytest.approx(float(torch.stack(by_torch).mean()), abs=1e-4)
