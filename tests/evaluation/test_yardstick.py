"""What a comparison is measured by, and whether a judge knows what people prefer."""

from __future__ import annotations

import numpy as np
import pytest

from morlaif.data.records import Pair
from morlaif.evaluation.judges import ScoreJudge
from morlaif.evaluation.results import Estimate, JudgeAgreement, JudgeFacts
from morlaif.evaluation.settings import HfJudge, PMJudge, RulesJudge
from morlaif.evaluation.yardstick import agrees_with_people, yardstick
from morlaif.presets import preset
from morlaif.statistics import Resampling

PROMPTS = [[{"role": "user", "content": f"Question {k}?"}] for k in range(4)]
HOW = Resampling(seed=0, resamples=300, confidence=0.95)
RULES = RulesJudge(source="rules")


def of(settings, prompts=PROMPTS, contents=None, gold=None) -> str:
    return yardstick(settings, "name", prompts, contents=contents or {}, gold=gold).id


def test_a_yardstick_is_the_judge_its_words_and_the_prompts():
    assert of(RULES) == of(RULES, PROMPTS[::-1]) != of(RULES, PROMPTS[:3])
    assert of(PMJudge(source="pm"), gold="a") != of(PMJudge(source="pm"), gold="b")
    asked = preset("eval", "hf")["judge"] | {"source": "hf"}
    engine = asked["engine"] | {"path": "somewhere", "batch_size": 1}
    judge, moved = (HfJudge(**asked | {"engine": engine | more}) for more in ({}, {"path": "else", "batch_size": 9}))
    content = {"eval.judge.engine.path": "weights"}
    assert of(judge, contents=content) == of(moved, contents=content), "where it lies and how fast it runs"
    assert of(judge, contents=content) != of(judge, contents={"eval.judge.engine.path": "others"})
    other = judge.model_copy(update={"question": "Which one is worse?"})
    assert yardstick(judge, "n", PROMPTS, contents={}, gold=None).template != ""
    assert of(judge) != of(other)


def pairs(count: int = 200, longer_wins: float = 0.5) -> list[Pair]:
    """Texts whose worth is their number of a's; people prefer the worthier, the longer one as often as said."""
    made = []
    for k in range(count):
        good, bad = "a" * (2 + k % 3), "a"
        bad, good = (bad, good + " " * 9) if k < longer_wins * count else (bad + " " * 20, good)
        first = k % 2 == 0
        made.append(Pair.of(PROMPTS[0], good if first else bad, bad if first else good, 1.0 if first else 0.0))
    return made


def worth(sign: float = 1.0) -> ScoreJudge:
    return ScoreJudge(lambda prompts, texts: sign * np.array([float(text.count("a")) for text in texts]))


def facts(agreement: JudgeAgreement | None, source: str = "hf") -> JudgeFacts:
    return JudgeFacts(source, "judge", agreement=agreement)


def test_a_judge_is_measured_beside_the_rule_that_the_longer_wins():
    found = agrees_with_people(worth(), pairs(longer_wins=0.5), **HOW)
    assert found.judge.value == 1 and found.longer.value == pytest.approx(0.5) and found.judge.n == 200
    assert found.difference.value == pytest.approx(0.5) and found.tells and facts(found).doubt == ""
    same = agrees_with_people(worth(), pairs(longer_wins=1.0), **HOW)
    assert same.longer.value == same.judge.value == 1 and not same.tells, "whoever prefers the longer knows as much"
    assert "longer response" in facts(same).doubt
    wrong = agrees_with_people(worth(-1.0), pairs(longer_wins=0.0), **HOW)
    assert wrong.judge.value == 0 and not wrong.tells
    half = Estimate(0.4, 0.35, 0.45, 300), Estimate(0.2, 0.15, 0.25, 300), Estimate(0.2, 0.1, 0.3, 300)
    assert not JudgeAgreement(*half).tells, "better than the rule, and worse than chance"


def test_without_labels_of_people_nothing_is_known_of_a_judge():
    unlabelled = [Pair.of(PROMPTS[0], "a", "b", None)]
    assert agrees_with_people(worth(), unlabelled, **HOW) is None and agrees_with_people(worth(), [], **HOW) is None
    assert "not known" in facts(None).doubt and facts(None, "rules").doubt == ""
