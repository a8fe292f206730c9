"""Judges whose answers are valid and say nothing, against the same arithmetic done by hand."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from chat_server import ChatServer, completion, letters
from feedback_cases import make_pairs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from morlaif.errors import UserError
from morlaif.feedback.chunks import PairChunks
from morlaif.feedback.information import FIRST, Watch, all_alike, information, warnings_of
from morlaif.feedback.judge import open_judge
from morlaif.feedback.label import label_all, label_chunks
from morlaif.feedback.records import Usage, Verdict
from morlaif.feedback.settings import RulesSettings, StopSettings
from morlaif.presets import preset


def found(forward, backward, **more):
    forward, backward = np.asarray(forward, float), np.asarray(backward, float)
    return information(0.5 * (expit(forward) + expit(-backward)), forward, backward, **more)


def limits(**some) -> StopSettings:
    return StopSettings(**dict.fromkeys(("orders_disagree", "spread", "letter_mass")) | some)


RNG = np.random.default_rng(0)
CONTENT, OTHER = RNG.normal(0, 2, 200), RNG.normal(0, 2, 200)
JUDGES = {  # log-odds of A in both orders, and the beginning of the warning; None: a judge that can be used
    "knows": (CONTENT, -CONTENT + RNG.normal(0, 0.5, 200), None),
    "knows, and leans to the first place": (CONTENT + 1.5, -CONTENT + 1.5, None),
    "sees no difference on half of the pairs": (
        np.where(CONTENT > 0, CONTENT, 0) + 0.2, 0.2 - np.where(CONTENT > 0, CONTENT, 0), None,
    ),
    "always the first place": (np.full(200, 0.2), np.full(200, 0.2), "prefers the same place"),
    "always the second, about": (RNG.normal(-1, 0.1, 200), RNG.normal(-1, 0.1, 200), "prefers the same place"),
    "a coin": (CONTENT, OTHER, "contradicts itself"),
    "a sure coin": (20 * np.sign(CONTENT), 20 * np.sign(OTHER), "contradicts itself"),
    "always equal": (np.zeros(200), np.zeros(200), "sees no difference"),
    "equal grades": (np.zeros(200), -np.zeros(200), "sees no difference"),
    "grades": (CONTENT, -CONTENT, None),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGES)
def test_each_kind_of_judge(name):
    forward, backward, expected = JUDGES[name]
    for rows in (slice(None), slice(0, FIRST)):
        made = found(forward[rows], backward[rows])
        if rows.stop is None or "coin" not in name:  # 20 pairs may not show a coin for what it is
            assert [w[: len(expected)] for w in made.warnings] == ([expected] if expected else [])
    assert found(forward[: FIRST - 1], backward[: FIRST - 1]).warnings == [], "too few to say anything"


@given(arrays(float, 40, elements=st.floats(-20, 20)), arrays(float, 40, elements=st.floats(-20, 20)))
def test_against_the_arithmetic(forward, backward):
    made = found(forward, backward)
    p = [(1 / (1 + math.exp(-f)) + 1 / (1 + math.exp(b))) / 2 for f, b in zip(forward, backward, strict=True)]
    assert made.spread == pytest.approx(math.sqrt(sum((x - 0.5) ** 2 for x in p) / 40), abs=1e-12)
    if made.orders_disagree is not None:
        assert made.orders_disagree == sum(f * b > 0 for f, b in zip(forward, backward, strict=True)) / 40
    swapped = found(backward, forward)  # the responses change names
    assert swapped.spread == pytest.approx(made.spread) and swapped.orders_disagree == made.orders_disagree
    assert made.consistency is None or -1 - 1e-9 <= made.consistency <= 1 + 1e-9
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["n"] == 40


def test_verdicts_without_orders():
    nan = np.full(30, np.nan)
    assert information(np.linspace(0, 1, 30), nan, nan).warnings == []
    assert information(np.ones(30), nan, nan).warnings == [], "chosen first, as many files have it"
    assert information(np.full(30, 0.5), nan, nan).warnings[0].startswith("sees no difference")
    empty = information([], [], [])
    assert empty.warnings == [] and empty.stops(limits(spread=0.5)) == []


def test_little_probability_on_the_letters():
    assert found(CONTENT, -CONTENT + 0.1, letter_mass=0.02).warnings == [
        "puts 0.02 of its probability on A and B: it means to say something else"
    ]


def test_limits():
    place = found(np.full(30, 0.2), np.full(30, 0.2), letter_mass=0.3)
    assert place.stops(limits()) == []
    assert place.stops(limits(orders_disagree=0.9)) == ["orders_disagree 1 is above 0.9"]
    assert place.stops(limits(spread=0.05, letter_mass=0.5)) == [
        "spread 0 is below 0.05", "letter_mass 0.3 is below 0.5",
    ]  # fmt: skip
    assert place.stops(limits(orders_disagree=1.0, letter_mass=0.2)) == []
    with pytest.raises(ValueError):
        limits(orders_disagree=1.5)
    with pytest.raises(ValueError):
        limits(spread=math.nan)


class Judge:
    name = "x:\x1b[31mjudge"

    def __init__(self) -> None:
        self.usage = Usage()


def verdict(forward, backward) -> Verdict:
    p = float(0.5 * (expit(forward) + expit(-backward)))
    return Verdict("id", p, 0.0, True, "x", forward, backward)


def test_one_loud_line_after_the_first_pairs_and_none_again_at_the_end(principles, caplog):
    from morlaif.feedback.records import Comparison

    watch = Watch(judge := Judge(), limits(), "feedback/detail")
    with caplog.at_level(logging.WARNING):
        for i in range(FIRST + 20):
            for p in principles.chosen[:3]:
                watch.see(Comparison(str(i), [], "a", "b", p), verdict(0.3, 0.3))
                watch.see(Comparison(str(i), [], "a", "b", p), Verdict.invalid("id", "x", "refusal"))
            assert len(judge.usage.warnings) == (i + 1 >= FIRST)
        watch.judged(found(np.full(40, 0.3), np.full(40, 0.3)))
    assert len(caplog.records) == 1 == len(judge.usage.warnings)
    said = caplog.records[0].getMessage()
    assert said.startswith("WARNING: feedback/detail (helpfulness): x:\\x1b[31mjudge prefers the same place")
    assert "feedback.stop_if" in said and "\n" not in said


@pytest.mark.slow
def test_the_toy_judge_is_never_suspected(rules):
    from morlaif.data.records import Pair
    from morlaif.feedback.label import label_with
    from morlaif.feedback.settings import PrinciplesSettings
    from morlaif.toy.world import make_world

    pairs = [Pair.of(e.messages, e.chosen, e.rejected) for e in make_world(3, sft=1, train=150, eval=1)["train"]]
    for principle in PrinciplesSettings(**preset("principles", "paper12")).chosen:
        for judge_settings in (rules, RulesSettings(**rules.model_dump() | {"noise": 0.0, "position_bias": 0.0})):
            judge = open_judge(judge_settings, ledger=None, seed=0)
            watch = Watch(judge, limits(orders_disagree=0.9, spread=0.05), "feedback/x")
            label_with(judge, pairs, lambda _, p=principle: (p,))
            (part,) = label_chunks(judge, PairChunks.of(pairs), lambda _, p=principle: (p,), watch=watch)
            assert information(part.p_first, part.d_forward, part.d_backward).warnings == [] == judge.usage.warnings


class PlacePicker(ChatServer):
    """Prefers option A whatever it reads."""

    def _completion(self, body, kind):
        return completion(body, "A", [letters(0.4)])


@pytest.mark.slow
def test_a_server_that_picks_a_place_is_reported_and_stopped_where_it_is_asked_for(
    principles, settings_for, tmp_path, caplog
):
    pairs, three = PairChunks.of(make_pairs(60)), principles.chosen[:3]
    with PlacePicker() as server:
        judge = open_judge(settings_for(server), ledger=tmp_path / "l", seed=0)
        watch = Watch(judge, settings_for(server).stop_if, "feedback/helpfulness")
        label_all(judge, pairs, three, tmp_path / "lock", watch=watch)
        assert len([line for line in judge.usage.warnings if "prefers the same place" in line]) == 1
        strict = settings_for(server, stop_if={"orders_disagree": 0.9, "spread": None, "letter_mass": None})
        judge = open_judge(strict, ledger=tmp_path / "m", seed=0)
        before = server.received
        with pytest.raises(UserError, match=r"orders_disagree 1 is above 0\.9 \(feedback\.stop_if\), on 20 pairs"):
            list(label_chunks(judge, pairs, lambda _: three[:1], watch=Watch(judge, strict.stop_if, "feedback/x")))
        assert server.received - before < 100, "it stopped at 20 pairs of 60"


def test_warnings_of_artifacts():
    qualities = {"a": {"information": {"warnings": ["x"]}}, "b": {"information": {"warnings": []}}, "c": {}}
    assert warnings_of(qualities) == {"a": ["x"]}


def test_principles_that_are_judged_as_one():
    p = expit(CONTENT)
    assert all_alike({"a": p, "b": p**2, "c": expit(OTHER)}) is None
    warning = "gives all 3 principles the same side on 100% of 200 pairs: it judges once for all"
    assert all_alike({"a": p, "b": expit(2 * CONTENT), "c": expit(CONTENT / 3)}) == warning
    assert all_alike({"a": p}) is None and all_alike({"a": p[:9], "b": p[:9]}) is None
    assert all_alike({"a": p, "b": np.full(200, np.nan)}) is None


class Deaf(ChatServer):
    """Ignores the temperature, and gives no log-probabilities."""

    def __init__(self, **more) -> None:
        super().__init__(logprobs=False, **more)

    def _completion(self, body, kind):
        return super()._completion({**body, "temperature": 0.0}, kind)


@pytest.mark.slow
def test_draws_that_never_differ_are_asked_for_once(helpfulness, settings_for, tmp_path):
    pairs, one = make_pairs(60), (helpfulness,)
    with Deaf() as server:
        settings = settings_for(server, votes=5, concurrency=1)
        judge = open_judge(settings, ledger=tmp_path / "l", seed=0)
        (part,) = label_chunks(judge, PairChunks.of(pairs), lambda _: one)
        asked = server.received
        assert 1 + 20 * 10 + 40 * 2 <= asked <= 1 + 24 * 10 + 36 * 2, "five draws for 20 pairs, one for the others"
        assert part.valid.all() and set(np.abs(part.d_forward).round(9)) == {round(math.log(11), 9)}
        said = [line for line in judge.usage.warnings if "were alike" in line]
        assert len(said) == 1 and "ignores feedback.vote_temperature" in said[0]
        later = open_judge(settings, ledger=tmp_path / "l", seed=0)
        more = PairChunks.of(make_pairs(70)[60:])
        (again,) = label_chunks(later, more, lambda _: one)
        assert again.valid.all() and server.received == asked + 20 and "were alike" not in "".join(later.usage.warnings)


@pytest.mark.slow
def test_draws_that_differ_are_all_asked_for(helpfulness, settings_for, tmp_path):
    with ChatServer(logprobs=False) as server:
        judge = open_judge(settings_for(server, votes=3), ledger=tmp_path / "l", seed=0)
        list(label_chunks(judge, PairChunks.of(make_pairs(40)), lambda _: (helpfulness,)))
        assert server.received == 1 + 40 * 6
