"""Sets of principles: what is learnt from them, and what is asked (SALMON)."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest
import torch

from morlaif.errors import UserError
from morlaif.feedback.records import Verdict
from morlaif.preference.bank import PreferenceBank
from morlaif.preference.report import read_report
from morlaif.preference.sets import (
    Ask,
    both_orders,
    draw_examples,
    drawn,
    preferred,
    set_scores,
    set_text,
)
from morlaif.preference.settings import SetDraws
from morlaif.preference.tasks import Corpus, Task
from morlaif.preference.train import train_pms

DRAWS = SetDraws(passes=4, stop=0.2, most=8, negated=0.5, flipped=0.0)


def test_negating_every_principle_turns_the_preference_round() -> None:
    random = Random(0)
    for _ in range(200):
        scores = [random.gauss(0, 1) for _ in range(random.randint(1, 8))]
        negated = [random.random() < 0.5 for _ in scores]
        turned = [not turn for turn in negated]
        first, second = preferred(scores, negated), preferred(scores, turned)
        assert first is not None and second is not None and first == 1 - second
        assert preferred(scores[:1], [False]) == float(scores[0] > 0) == 1 - (preferred(scores[:1], [True]) or 0)


def test_the_strongest_principle_decides() -> None:
    assert preferred([0.5, -2.0, 1.0], [False, False, False]) == 0
    assert preferred([0.5, -2.0, 1.0], [False, True, False]) == 1
    assert preferred([0.0, 0.0], [True, False]) is None


def test_scores_are_those_of_both_orders_by_their_variance() -> None:
    verdicts = [
        Verdict("a", 0.7, 0.0, True, "j", d_forward=2.0, d_backward=-1.0),
        Verdict("b", 0.3, 0.0, True, "j", d_forward=-3.0, d_backward=2.0),
        Verdict("c", 0.5, 0.0, True, "j", d_forward=1.0, d_backward=1.0),  # of two minds
        Verdict.invalid("d", "j", "silent"),
        Verdict("e", 0.5, None, True, "people"),
    ]
    odds = both_orders(verdicts)
    assert odds[:3].tolist() == [[2.0, 1.0], [-3.0, -2.0], [1.0, -1.0]]
    assert np.isnan(odds[3]).all() and odds[4].tolist() == [0.0, 0.0]
    variance = np.var([2, 1, -3, -2, 1, -1, 0, 0])
    assert set_scores(odds)[[0, 1, 2, 4]] == pytest.approx([1.5 / variance, -2.5 / variance, 0, 0])
    assert np.isnan(set_scores(odds)[3])
    # what is asked about on a scale ten times as wide decides no more often
    assert set_scores(10 * odds)[0] == pytest.approx(set_scores(odds)[0] / 10)


def test_sets_are_drawn_as_in_the_paper() -> None:
    scores = np.random.default_rng(0).normal(size=(500, 12))
    examples = draw_examples(scores, DRAWS, Random(1))
    assert len(examples) == 2000
    sizes = np.bincount([len(example.principles) for example in examples], minlength=9)
    usual = 0.2 * 0.8 ** np.arange(8)
    assert sizes[1:] / 2000 == pytest.approx(usual / usual.sum(), abs=0.03)
    turned = [negated for example in examples for _, negated in example.principles]
    assert np.mean(turned) == pytest.approx(0.5, abs=0.03)
    for example in examples:
        places, negated = zip(*example.principles, strict=True)
        assert len(set(places)) == len(places)
        assert example.first == preferred([scores[example.pair, place] for place in places], negated)
    noisy = draw_examples(scores, DRAWS.model_copy(update={"flipped": 0.1}), Random(1))
    assert np.mean([a.first != b.first for a, b in zip(examples, noisy, strict=True)]) == pytest.approx(0.1, abs=0.03)


def test_pairs_without_verdicts_are_in_no_set() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, np.nan], [2.0, 0.0]])
    examples = draw_examples(scores, DRAWS, Random(2))
    assert {example.pair for example in examples} == {0, 2}
    assert all(place == 1 for example in examples if example.pair == 0 for place, _ in example.principles)


def test_a_prompt_has_its_own_principles(chat) -> None:
    texts = list("abcdefgh")
    found = [drawn(texts, 3, chat(f"question {i}")) for i in range(60)]
    assert all(len(set(own)) == 3 for own in found)
    assert found == [drawn(texts, 3, chat(f"question {i}")) for i in range(60)]
    assert {text for own in found for text in own} == set(texts)
    assert len(drawn(texts[:2], 3, chat("hi"))) == 2


@pytest.fixture(scope="module")
def salmon(make_pairs, llama, pm_settings, tmp_path_factory):
    """Trained on the principle "kind" and its opposite "blunt"; "other", of the first's verdicts, is left out."""
    root = tmp_path_factory.mktemp("salmon")
    pairs, verdicts = make_pairs(64, 0)
    held, held_verdicts = make_pairs(30, 1)

    def turned(given):
        return [Verdict(v.pair_id, 1 - v.p_first, v.bias, True, v.judge) for v in given]

    tasks = []
    for name, flip in (("kind", False), ("blunt", True), ("other", False)):
        (root / name).mkdir()
        own, own_held = (turned(given) if flip else given for given in (verdicts, held_verdicts))
        tasks.append(Task(name, own, own_held, root / name, f"Which one is {name}?", None))
    settings = pm_settings(
        "toy_salmon", epochs=14, batch_size=16, micro_batch_size=None, leave_out=["other"],
        sets=DRAWS.model_dump() | {"stop": 0.6, "most": 2}, learning_rate=0.004, head_learning_rate=0.01,
    )  # fmt: skip
    ends = train_pms(tasks, Corpus(pairs, held, llama), settings, seed=1)
    assert not [end for end in ends.values() if isinstance(end, UserError)]
    return {name: root / name for name in ("kind", "blunt", "other")}, held


@pytest.mark.slow
def test_a_negated_principle_is_scored_the_other_way(salmon, texts_of) -> None:
    folders, held = salmon
    reports = {name: read_report(name, folder) for name, folder in folders.items()}
    assert reports["kind"].together == ["kind", "blunt"] and reports["other"].together == ["kind", "blunt"]
    assert reports["kind"].accuracy["value"] > 0.9 and reports["blunt"].accuracy["value"] > 0.9
    prompts, responses = texts_of(held)
    folders = {name: folders[name] for name in ("kind", "blunt")}
    asked = {"turned": Ask(("kind",), {"not kind": "Which one is kind?"})}  # read as the negation was in training
    scores = PreferenceBank.load(folders, asked=asked).score(prompts, responses)
    plain, blunt, turned = scores.T
    assert torch.corrcoef(torch.stack([plain, turned]))[0, 1] < -0.5
    assert torch.corrcoef(torch.stack([plain, blunt]))[0, 1] < -0.5


@pytest.mark.slow
def test_written_principles_and_sets_are_columns(salmon, texts_of) -> None:
    folders, held = salmon
    prompts, responses = texts_of(held[:10])
    asked = {
        "again": Ask(("kind",), {"kind": "Which one is kind?"}),  # what a model has learnt, written anew
        "set": Ask(("kind", "blunt"), {"new": "Which one is new?"}, draw=2),
    }
    bank = PreferenceBank.load(folders, asked=asked)
    assert bank.names == ("kind", "blunt", "other", "again", "set")
    scores = bank.score(prompts, responses)
    assert torch.allclose(scores[:, 0], scores[:, 3], atol=1e-4)
    few = PreferenceBank.load(folders, asked=asked, columns=["set", "kind"], tokens=40)
    assert few.names == ("set", "kind")
    assert torch.allclose(few.score(prompts, responses), scores[:, [4, 0]], atol=1e-4)

    # each dialogue is asked about its own prompt's set, as the text says it
    report = read_report("kind", folders["kind"])
    texts = [str(read_report(name, folders[name]).question) for name in ("kind", "blunt")] + ["new: Which one is new?"]
    for row, (prompt, response) in enumerate(zip(prompts[:3], responses[:3], strict=True)):
        own = drawn(texts, 2, prompt)
        one = {"x": Ask(("kind",), {"": ""}, draw=None)}
        alone = PreferenceBank.load({"kind": folders["kind"]}, asked=one, columns=["x"])
        alone._readers[0].asked = type(alone._readers[0].asked)("kind", tuple(own))  # type: ignore[attr-defined]
        assert float(alone.score([prompt], [response])) == pytest.approx(float(scores[row, 4]), abs=1e-4)
    assert report.instruction == "{name}: {question}"


def test_a_set_is_a_line_a_principle() -> None:
    assert set_text([("kind", False), ("short", True)], "not {principle}") == "kind\nnot short"


def test_models_that_read_no_principles_cannot_be_asked(make_pairs, llama, pm_settings, tmp_path) -> None:
    pairs, verdicts = make_pairs(8, 0)
    held, held_verdicts = make_pairs(4, 1)
    settings = pm_settings("toy", epochs=1, batch_size=8)
    train_pms([Task("a", verdicts, held_verdicts, tmp_path)], Corpus(pairs, held, llama), settings, seed=1)
    with pytest.raises(UserError, match=re.escape("preference model 'a' (pm.kind lora) reads no principles")):
        PreferenceBank.load({"a": tmp_path}, asked={"x": Ask(("a",), {"new": "Which?"})})


@pytest.mark.parametrize("negation", ["no", "{principle} {other}", "{principle!r} {"])
def test_a_negation_names_the_principle(pm_settings, negation) -> None:
    with pytest.raises(ValueError, match="principle"):
        pm_settings("toy_salmon", negation=negation)


def test_nothing_to_learn_from_is_one_line(make_pairs, llama, pm_settings, tmp_path) -> None:
    pairs, verdicts = make_pairs(8, 0)
    undecided = [Verdict(v.pair_id, 0.5, 0.0, True, "j", d_forward=1.0, d_backward=1.0) for v in verdicts]
    corpus = Corpus(pairs, [], llama)
    for change, line in (({}, "no pair has a preference"), ({"leave_out": ["a"]}, "leaves no principle")):
        with pytest.raises(UserError, match=line):
            train_pms([Task("a", undecided, [], tmp_path)], corpus, pm_settings("toy_salmon", **change), seed=1)
