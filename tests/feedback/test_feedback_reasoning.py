"""Two-step chain of thought of a local judge: what is shared and batched changes the work, not the answers."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from feedback_cases import make_pairs

from morlaif.data.chat import prompt_ids
from morlaif.data.control import plain_ids
from morlaif.feedback.arithmetic import mean_gap, soft_label
from morlaif.feedback.judge import open_judge
from morlaif.feedback.ledger import Ledger
from morlaif.feedback.local import LetterModel, Stem
from morlaif.feedback.prompt import CLOSING, thinking_messages
from morlaif.feedback.reasoning import Reasoner
from morlaif.feedback.records import Comparison
from morlaif.feedback.settings import HfSettings, Prompting, ThoughtSettings
from morlaif.models.scratch import build_causal_lm, train_tokenizer
from morlaif.models.settings import ScratchSettings
from morlaif.presets import preset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama that ends its turns now and then."""
    texts = [thinking_messages(p.messages, p.first, p.second, WORDING)[1]["content"] for p in make_pairs(30)]
    scratch = ScratchSettings(
        vocab_size=400, hidden_size=32, layers=2, heads=4, intermediate_size=64,
        max_positions=1024, tie_embeddings=True, init_std=0.2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("judge")
    tokenizer = train_tokenizer([*texts, f"A B A B{CLOSING} A{CLOSING} B"] * 3, scratch.vocab_size)
    model = build_causal_lm(scratch, tokenizer, seed=0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


class _Wording:
    question, description = "Which option does more?", "Prefer the one that does more."


WORDING = _Wording()


def thought(samples: int = 1, temperature: float = 0.0, most: int = 16) -> ThoughtSettings:
    return ThoughtSettings(max_tokens=most, samples=samples, temperature=temperature)


@pytest.fixture
def settings(folder):
    asks = Prompting(thought=thought(), exemplars=())
    return HfSettings(**preset("feedback", "hf") | {"path": str(folder), "device": "cpu", "prompting": asks})


@pytest.fixture(scope="module")
def engine(folder):
    return LetterModel.load(HfSettings(**preset("feedback", "hf") | {"path": str(folder), "device": "cpu"}))


def stems_of(engine: LetterModel) -> list[Stem]:
    """Prompts of several lengths; of one that share a beginning, three endings."""
    texts = [["one two three", "one two four five", "one two"], ["A better answer worth 2.5"], ["B " * 30, "B " * 31]]
    return [engine.stem([[{"role": "user", "content": text}] for text in group]) for group in texts]


def seeds_of(stems: list[Stem]) -> list[list[int]]:
    count = itertools.count(100, 100)
    return [[next(count) for _ in stem.endings] for stem in stems]


@pytest.fixture(autouse=True)
def ends_often(engine, monkeypatch):
    """Some rows of a batch end early: whatever is drawn of a tenth of the vocabulary ends a turn."""
    from morlaif.models.ends import TurnEnds

    ids = frozenset({engine.tokenizer.eos_token_id, *range(7, len(engine.tokenizer), 10)})
    monkeypatch.setattr(
        "morlaif.models.ends.ends_of", lambda model, tokenizer: TurnEnds(engine.tokenizer.eos_token_id, ids)
    )


def flat(answers):
    return [one for stem in answers for row in stem for one in row]


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "temperature"), [(1, 0.0), (3, 1.0)])
def test_rows_that_share_a_prefix_and_leave_early_are_answered_as_each_alone(engine, samples, temperature):
    stems = stems_of(engine)
    together, apart = (Reasoner(engine, thought(samples, temperature)) for _ in range(2))
    apart._together = apart._apart
    one, other = (flat(reasoner.ask(stems, seeds_of(stems))) for reasoner in (together, apart))
    assert [x.rationale for x in one] == [x.rationale for x in other]
    assert len({x.tokens for x in one}) > 2  # some ended early
    for a, b in zip(one, other, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    if samples > 1:
        assert len({x.rationale for x in one[:samples]}) > 1


def test_greedy_reasoning_and_the_letters_after_it_are_those_of_the_plain_model(engine):
    (stem,) = [engine.stem([[{"role": "user", "content": "one two three"}]])]
    ((answer,),) = next(Reasoner(engine, thought()).ask([stem], [[0]]))
    from morlaif.models.ends import ends_of

    ends = ends_of(engine.model, engine.tokenizer)
    ids = prompt_ids(engine.tokenizer, [{"role": "user", "content": "one two three"}])
    drawn = []
    with torch.no_grad():
        while len(drawn) < 16 and not ends.ended(drawn):
            drawn.append(engine.model(torch.tensor([ids + drawn])).logits[0, -1].argmax().item())
        kept = drawn[:-1] if ends.ended(drawn) else drawn
        p = engine.model(torch.tensor([ids + kept + plain_ids(engine.tokenizer, CLOSING)])).logits[0, -1].softmax(-1)
    letters = [p[ids].sum().log().item() for ids in engine._answers]
    assert answer.tokens == len(drawn) and answer.logprobs == pytest.approx(letters, abs=1e-4)


def test_a_sample_is_its_own_questions_whatever_is_asked_beside_it(engine):
    stems, how = stems_of(engine), thought(2, 1.0)
    whole = list(Reasoner(engine, how).ask(stems, seeds_of(stems)))
    (alone,) = Reasoner(engine, how).ask(stems[1:2], seeds_of(stems)[1:2])
    assert [x.rationale for x in alone[0]] == [x.rationale for x in whole[1][0]]


def test_samples_are_averaged_as_probabilities():
    gaps = [2.0, -1.0, 0.5]
    mean = sum(1 / (1 + math.exp(-d)) for d in gaps) / 3
    assert 1 / (1 + math.exp(-mean_gap(gaps))) == pytest.approx(mean, abs=1e-12)
    assert mean_gap([0.3]) == 0.3 and math.isfinite(mean_gap([800.0, 900.0]))


@pytest.mark.slow
def test_verdicts_rest_on_both_orders_and_are_kept_by_how_they_were_asked(settings, helpfulness, tmp_path):
    pairs, ledger = make_pairs(3), tmp_path / "l"

    def ask(asks: Prompting | None):
        judge = open_judge(settings.model_copy(update={"prompting": asks}), ledger=ledger, seed=0)
        known = judge.recall(helpfulness, [pair.id for pair in pairs]).valid.sum()
        found = [v for _, v in judge.judge(Comparison.of(pair, helpfulness) for pair in pairs)] if not known else []
        return judge, int(known), found

    judge, known, verdicts = ask(settings.prompting)
    assert not known and all(v.valid and v.output_tokens > 0 for v in verdicts)
    assert all(v.p_first == pytest.approx(soft_label(v.d_forward, v.d_backward)) for v in verdicts)
    assert judge.usage.output_tokens == sum(v.output_tokens for v in verdicts)
    assert ask(settings.prompting)[1] == 3  # again: known
    others = [None, Prompting(thought=thought(most=17), exemplars=()), Prompting(thought=thought(2, 1.0), exemplars=())]
    assert [ask(asks)[1] for asks in others] == [0, 0, 0]
    with Ledger(ledger) as kept:
        raw = kept._db.execute("SELECT key FROM reply").fetchall()
        rationales = [json.loads(kept.raw(key))["rationale"] for (key,) in raw]
    assert len(rationales) == 3 * 2 * (1 + 1 + 2) and any(rationales)


def test_worked_examples_are_reasoned_as_the_judge_is_to(helpfulness):
    asks = Prompting(**preset("feedback", "rlaif_few_shot")["prompting"])
    (pair,) = make_pairs(1)
    system, first, answer, *_, asked = thinking_messages(
        pair.messages, pair.first, pair.second, helpfulness, asks.exemplars
    )
    assert [system["role"], first["role"], answer["role"], asked["role"]] == ["system", "user", "assistant", "user"]
    assert answer["content"].startswith("The person wants") and answer["content"].endswith(f"{CLOSING} B")
    with pytest.raises(ValueError, match="each needs a rationale"):
        bare = asks.exemplars[0].model_copy(update={"rationale": None})
        Prompting(thought=thought(), exemplars=(bare, asks.exemplars[1]))
    with pytest.raises(ValueError, match="answered A"):
        Prompting(thought=None, exemplars=asks.exemplars[:1] * 2)
    with pytest.raises(ValueError, match="set it above 0"):
        thought(samples=2)


def test_a_question_with_no_room_for_its_reasoning_has_no_verdict(settings, helpfulness, tmp_path):
    from morlaif.data.records import Pair

    long = Pair.of([{"role": "user", "content": "Question 1? " * 60}], "An answer.", "Another answer.")
    roomy = settings.model_copy(update={"prompting": Prompting(thought=thought(most=500), exemplars=())})
    judge = open_judge(roomy, ledger=tmp_path / "l", seed=0)
    ((_, verdict),) = judge.judge([Comparison.of(long, helpfulness)])
    assert not verdict.valid and "longer" in verdict.reason
