from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from artifacts import save_verdicts

from morlaif.data.records import Pair
from morlaif.errors import UserError
from morlaif.feedback.chunks import Verdicts, averaged
from morlaif.feedback.judge import open_checker, open_judge, open_rater
from morlaif.feedback.label import draw, label, label_with
from morlaif.feedback.quality import quality
from morlaif.feedback.rating import Single
from morlaif.feedback.records import Verdict, load_verdicts
from morlaif.feedback.settings import Criterion, HumanSettings, PriceSettings, Principle
from morlaif.toy import judge as toy
from morlaif.toy.world import make_world


@pytest.fixture(scope="module")
def toy_pairs() -> list[Pair]:
    examples = make_world(0, sft=10, train=120, eval=10)["train"]
    return [Pair.of(e.messages, e.chosen, e.rejected, human=1.0) for e in examples]


def run(pairs, principle, settings, tmp_path, seed=0):
    return label(pairs, principle, settings, ledger=tmp_path / "ledger.sqlite", seed=seed)


def test_without_noise_the_judge_is_exact(toy_pairs, helpfulness, rules, tmp_path):
    exact = rules.model_copy(update={"noise": 0.0, "position_bias": 0.7})
    for pair, verdict in zip(toy_pairs, run(toy_pairs, helpfulness, exact, tmp_path), strict=True):
        true = toy.score("helpfulness", pair.messages, pair.first) - toy.score(
            "helpfulness", pair.messages, pair.second
        )
        assert math.copysign(1, verdict.p_first - 0.5) * bool(verdict.p_first - 0.5) == (true > 0) - (true < 0)
        assert verdict.d_forward == pytest.approx(true / exact.temperature + 0.7)
        assert verdict.d_backward == pytest.approx(-true / exact.temperature + 0.7)
        assert verdict.bias == pytest.approx(0.7)
        assert verdict.valid and verdict.judge == "rules" and verdict.pair_id == pair.id
    assert not (tmp_path / "ledger.sqlite").exists()  # rules cost nothing


def test_the_order_of_asking_and_the_company_change_nothing(toy_pairs, helpfulness, rules, tmp_path):
    whole = {v.pair_id: v for v in run(toy_pairs, helpfulness, rules, tmp_path)}
    some = random.Random(1).sample(toy_pairs, 30)
    assert all(whole[v.pair_id] == v for v in run(some, helpfulness, rules, tmp_path))
    other = {v.pair_id: v for v in run(toy_pairs, helpfulness, rules, tmp_path, seed=1)}
    assert sum(whole[i].p_first != other[i].p_first for i in whole) > len(whole) / 3


def test_noise_errs_and_equal_scores_stay_undecided(toy_pairs, helpfulness, rules, tmp_path):
    noisy = rules.model_copy(update={"noise": 2.0})
    verdicts = run(toy_pairs, helpfulness, noisy, tmp_path)
    gaps = [
        toy.score("helpfulness", p.messages, p.first) - toy.score("helpfulness", p.messages, p.second)
        for p in toy_pairs
    ]
    wrong = sum((v.p_first - 0.5) * gap < 0 for v, gap in zip(verdicts, gaps, strict=True))
    assert 0.05 < wrong / len(gaps) < 0.45
    assert all((v.p_first == 0.5) for v, gap in zip(verdicts, gaps, strict=True) if gap == 0)


def test_a_price_counts_words_and_changes_no_answer(toy_pairs, helpfulness, rules, tmp_path):
    pairs = toy_pairs[:7]
    paid = rules.model_copy(update={"price": PriceSettings(input=2.0, output=10.0)})
    judge = open_judge(paid, ledger=tmp_path / "ledger.sqlite", seed=0)
    found = label_with(judge, pairs, lambda _: (helpfulness,))
    for pair, priced, free in zip(pairs, found, run(pairs, helpfulness, rules, tmp_path), strict=True):
        texts = [helpfulness.question, helpfulness.description, pair.first, pair.second]
        read = 2 * len(" ".join([*texts, *(turn["content"] for turn in pair.messages)]).split())
        assert (priced.input_tokens, priced.output_tokens) == (read, 2)
        assert priced.usd == pytest.approx((2 * read + 10 * 2) / 1e6)
        assert replace(priced, input_tokens=0.0, output_tokens=0.0, usd=0.0) == free
    assert judge.usage.usd == pytest.approx(sum(one.usd for one in found))
    assert judge.usage.input_tokens == sum(one.input_tokens for one in found)


def test_a_price_counts_the_words_of_a_rating_too(toy_pairs, rules, tmp_path):
    paid = rules.model_copy(update={"price": PriceSettings(input=2.0, output=10.0)})
    criterion = Criterion(name="detail", ask="How full is this reply?", covers=["detail"])
    single = Single("a", toy_pairs[0].messages, toy_pairs[0].first, criterion)
    read = len(" ".join([criterion.ask, *(t["content"] for t in single.messages), single.response]).split())
    for opened in (open_rater(paid, ledger=tmp_path / "l", highest=10), open_checker(paid, ledger=tmp_path / "l")):
        ((_, rating),) = opened.judge([single])
        assert (rating.input_tokens, rating.output_tokens) == (read, 1)
        assert rating.usd == pytest.approx((2 * read + 10) / 1e6) == opened.usage.usd


def test_a_principle_may_cover_several(toy_pairs, rules, tmp_path):
    broad = Principle(name="broad", question="q", description="d", covers=["empathy", "detail"])
    exact = rules.model_copy(update={"noise": 0.0, "position_bias": 0.0})
    for pair, verdict in zip(toy_pairs, run(toy_pairs, broad, exact, tmp_path), strict=True):
        gap = sum(
            toy.score(name, pair.messages, pair.first) - toy.score(name, pair.messages, pair.second)
            for name in broad.covers
        )
        assert verdict.d_forward == pytest.approx(gap / math.sqrt(2) / exact.temperature)


def test_a_principle_the_toy_world_lacks(toy_pairs, rules, tmp_path):
    odd = Principle(name="odd", question="q", description="d", covers=["empaty"])
    with pytest.raises(UserError, match=r"'odd' covers 'empaty'.*Did you mean 'empathy'"):
        run(toy_pairs, odd, rules, tmp_path)


def test_the_baseline_draws_by_pair(toy_pairs, principles, rules, tmp_path):
    constitution = principles.constitution
    one = draw(constitution, 1, seed=0)
    drawn = {pair.id: one(pair.id)[0].name for pair in toy_pairs}
    assert drawn == {pair.id: one(pair.id)[0].name for pair in reversed(toy_pairs)}
    assert len(set(drawn.values())) > 10
    assert len({p.name for p in draw(constitution, 5, 0)(toy_pairs[0].id)}) == 5
    verdicts = run(toy_pairs, one, rules, tmp_path)
    for pair, verdict in list(zip(toy_pairs, verdicts, strict=True))[:20]:
        assert verdict == run([pair], one(pair.id)[0], rules, tmp_path)[0]


def test_several_verdicts_on_a_pair_are_averaged(toy_pairs, principles, rules, tmp_path):
    three = draw(principles.constitution, 3, seed=0)
    pair = toy_pairs[0]
    single = [run([pair], principle, rules, tmp_path)[0] for principle in three(pair.id)]
    verdict = run([pair], three, rules, tmp_path)[0]
    assert verdict.p_first == pytest.approx(sum(v.p_first for v in single) / 3)
    invalid = Verdict.invalid(pair.id, "rules", "refusal")
    parts = [Verdicts.of("rules", [v]) for v in (invalid, single[0])]
    assert next(iter(averaged(parts))) == single[0]
    assert next(iter(averaged([parts[0], parts[0]]))) == invalid


def test_human_labels_are_passed_on_and_missing_ones_counted(toy_pairs, tmp_path):
    pairs = [
        Pair.of(p.messages, p.first, p.second, human=h) for p, h in zip(toy_pairs, (1.0, 0.0, 0.5, None), strict=False)
    ]
    verdicts = run(pairs, None, HumanSettings(source="human"), tmp_path)
    assert [v.p_first for v in verdicts] == [1.0, 0.0, 0.5, None]
    assert [v.valid for v in verdicts] == [True, True, True, False]
    measured = quality(pairs, verdicts)
    assert measured["invalid"] == {"no human label": 1}
    assert measured["validity"]["value"] == 0.75 and measured["validity"]["n"] == 4
    assert measured["agreement_human"]["value"] == 1.0 and measured["agreement_human"]["n"] == 2
    assert measured["mean_bias"] is None and measured["position_inconsistency"]["n"] == 0


def test_quality_by_hand(toy_pairs):
    pairs = [Pair.of(p.messages, p.first, p.second, human=1.0) for p in toy_pairs[:4]]
    rows = [(0.9, 0.1, 2.0, -1.8), (0.4, 0.5, 0.5, 0.5), (0.5, 0.0, 0.0, 0.0)]
    verdicts = [
        Verdict(pair.id, p, bias, True, "x", forward, backward)
        for pair, (p, bias, forward, backward) in zip(pairs, rows, strict=False)
    ]
    verdicts.append(Verdict.invalid(pairs[3].id, "x", "no letter"))
    measured = quality(pairs, list(reversed(verdicts)), truth=lambda pair: -1.0)  # joined by identity, not by place
    assert measured["n"] == 4 and measured["valid"] == 3
    assert measured["position_inconsistency"]["value"] == pytest.approx(1 / 3)
    assert measured["mean_bias"] == pytest.approx(0.2)
    assert measured["agreement_human"]["value"] == pytest.approx(0.5)  # right, wrong, undecided
    assert measured["agreement_truth"]["value"] == pytest.approx(0.5)
    assert measured["confidence"] == pytest.approx((0.8 + 0.2 + 0.0) / 3)


def test_verdicts_survive_the_disk(tmp_path, toy_pairs):
    verdicts = [
        Verdict(toy_pairs[0].id, 0.9, 0.1, True, "x", 2.0, -1.8),
        Verdict.invalid(toy_pairs[1].id, "x", "no letter", forward=0.3),
    ]
    save_verdicts(tmp_path, {"train": verdicts, "eval": []})
    assert load_verdicts(tmp_path, "train") == verdicts
    assert load_verdicts(tmp_path, "eval") == []
