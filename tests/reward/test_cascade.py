"""A judge asked where preference models doubt: which scores are its, on which scale, and what a spent budget does."""

from __future__ import annotations

import logging

import pytest
import torch
from test_reward_settings import JUDGE, PRINCIPLES, RULES, conf, function, reward

from morlaif.errors import BudgetSpent, UserError
from morlaif.reward.cascade import CascadeScores
from morlaif.reward.settings import check, layout
from morlaif.reward.sources import FunctionScores, SideBySide
from morlaif.stages.work.scoring import SharedSource

NAMES = ("helpfulness", "toxicity")
PROMPTS = [[{"role": "user", "content": f"prompt {i}"}] for i in range(4)]
RESPONSES = ["a", "bb", "ccc", "dddd"]
SCALE = {"helpfulness": [2.0, 0.5, 0.1, 0.4], "toxicity": [-1.0, 2.0, 0.0, 0.5]}


class Bank:
    def __init__(self, apart):
        self.apart = torch.tensor(apart)

    def score(self, prompts, responses):
        lengths = torch.tensor([float(len(text)) for text in responses])
        return torch.stack([2 + 0.5 * (lengths - 2.5), -lengths], dim=1)

    def deviation(self, prompts, responses):
        return self.apart[: len(responses)]


class Judge:
    def __init__(self, says=lambda messages, text, name: 0.5):
        self.says, self.asked = says, []

    def rate(self, cells):
        self.asked += [(text, name) for _, text, name in cells]
        return [self.says(*cell) for cell in cells]

    def take_facts(self):
        return {"ratings": float(len(self.asked))}


APART = [[0.1, 0.2], [0.6, 0.2], [0.1, 3.0], [0.2, 0.1]]


def cascade(judge, scale=SCALE, apart=APART, **changes) -> CascadeScores:
    settings = reward(conf("reward/cascade"), **{"above": 1.0, "share": None} | changes)
    return CascadeScores(NAMES, Bank(apart), judge, settings, scale)


def test_the_judge_is_asked_where_members_disagree_and_speaks_the_models_scale() -> None:
    judge = Judge()
    source = cascade(judge)
    plain = Bank(APART).score(PROMPTS, RESPONSES)
    scores = source(PROMPTS, RESPONSES)
    assert judge.asked == [("bb", "helpfulness"), ("ccc", "toxicity")]  # .6 / .5 and 3 / 2 deviations are above 1
    expected = plain.clone()
    expected[1, 0] = 2 + 0.5 * (0.5 - 0.1) / 0.4
    expected[2, 1] = -1 + 2 * 0.5 / 0.5
    assert torch.allclose(scores, expected)
    assert source.take_facts() == {"scored": 8, "doubted": 2, "asked": 2, "ratings": 2}
    assert source.take_facts()["scored"] == 0


def test_or_for_the_share_on_which_they_are_furthest_apart() -> None:
    for share, asked in ((0.125, [("ccc", "toxicity")]), (0.25, [("bb", "helpfulness"), ("ccc", "toxicity")])):
        judge = Judge()
        cascade(judge, above=None, share=share)(PROMPTS, RESPONSES)
        assert sorted(judge.asked) == asked
    judge = Judge()
    cascade(judge, above=None, share=1.0)(PROMPTS, RESPONSES)
    assert len(judge.asked) == 8


def test_models_alone_until_the_scale_is_known_and_where_nothing_is_doubted() -> None:
    plain = Bank(APART).score(PROMPTS, RESPONSES)
    for source in (cascade(Judge(), scale=None), cascade(Judge(), above=9.0)):
        assert torch.equal(source(PROMPTS, RESPONSES), plain) and not source._judge.asked


def test_the_scale_puts_ratings_where_the_models_scores_are() -> None:
    rated = {"a": -0.5, "bb": 0.0, "ccc": 0.25, "dddd": None}
    source = cascade(Judge(lambda messages, text, name: rated[text]), scale=None, reference=4)
    scale = source.calibrate(PROMPTS, RESPONSES)
    own = torch.tensor([-0.5, 0.0, 0.25])
    scores = Bank(APART).score(PROMPTS[:3], RESPONSES[:3])  # those with a rating
    for k, name in enumerate(NAMES):
        mean, deviation, centre, spread = scale[name]
        assert (centre, spread) == pytest.approx((float(own.mean()), float(own.std(correction=0))))
        put = mean + deviation * (own - centre) / spread
        assert float(put.mean()) == pytest.approx(float(scores[:, k].mean()), abs=1e-5)
        assert float(put.std()) == pytest.approx(float(scores[:, k].std()), abs=1e-5)


def test_what_cannot_be_put_on_a_scale_is_one_line() -> None:
    with pytest.raises(UserError, match="rates all 4 alike under 'helpfulness'"):
        cascade(Judge(), scale=None).calibrate(PROMPTS, RESPONSES)
    alone = [[0.1, float("nan")]] * 4
    with pytest.raises(UserError, match="'toxicity' has no members"):
        cascade(Judge(), scale=None, apart=alone).calibrate(PROMPTS, RESPONSES)


def test_a_spent_budget_leaves_the_models_and_says_so_once(caplog) -> None:
    def spent(messages, text, name):
        raise BudgetSpent("reward.judge.engine.budget_usd=1 is reached: 1.00 USD are spent. What was answered is kept.")

    source = cascade(Judge(spent))
    plain = Bank(APART).score(PROMPTS, RESPONSES)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(source(PROMPTS, RESPONSES), plain)
    assert [record.message.count("go on without the judge") for record in caplog.records] == [1]
    facts = source.take_facts()
    assert (facts["doubted"], facts["asked"]) == (4, 0)


def test_an_answer_of_no_use_leaves_the_models_score() -> None:
    source = cascade(Judge(lambda messages, text, name: None))
    assert torch.equal(source(PROMPTS, RESPONSES), Bank(APART).score(PROMPTS, RESPONSES))
    assert source.take_facts()["asked"] == 0


def test_columns_have_models_and_criteria() -> None:
    found = layout(reward(conf("reward/cascade")), PRINCIPLES)
    assert found.names == found.models == PRINCIPLES and found.judges.keys() == {""}
    check(found.reward, RULES)
    assert conf("reward/cascade")["judge"] == JUDGE


def test_two_of_them_beside_other_rewards_have_a_scale_by_column() -> None:
    """Under a name of its own, as of a principle that another part has too, and with a judge of its own."""
    tree = conf("reward/mixture")
    names = {"first": ["toxicity", "detail"], "second": ["toxicity"]}
    parts = {name: conf("reward/cascade") | {"principles": own} for name, own in names.items()}
    mixture = reward(tree, parts=parts | {"length": function()}, weights=dict.fromkeys([*parts, "length"], 1.0))
    check(mixture, RULES)
    found = layout(mixture, PRINCIPLES)
    assert found.names == ["toxicity", "detail", "second_toxicity", "score"] and found.models == ["toxicity", "detail"]
    assert found.judges.keys() == names.keys()

    rated = iter([-0.5, 0.0, 0.5, 1.0] * 2 + [1.0, 0.5, 0.0, -0.5] * 2)
    judge = Judge(lambda messages, text, name: next(rated))
    one, two = (
        CascadeScores(own, Bank(APART), judge, mixture.parts[part], None, f"reward.parts.{part}")
        for part, own in (("first", ("toxicity", "detail")), ("second", ("second_toxicity", "x")))
    )
    plain = FunctionScores(("length",), lambda prompts, responses: [1.0] * len(responses), "reward.parts.length")
    scale = SharedSource(SideBySide([one, plain, two])).calibrate(PROMPTS, RESPONSES)
    assert scale is not None and list(scale) == ["toxicity", "detail", "second_toxicity", "x"]
    assert SharedSource(SideBySide([plain])).calibrate(PROMPTS, RESPONSES) is None
    alike = CascadeScores(NAMES, Bank(APART), Judge(), mixture.parts["first"], None, "reward.parts.first")
    with pytest.raises(UserError, match=r"^reward\.parts\.first: .*larger reward\.parts\.first\.reference"):
        SharedSource(SideBySide([plain, alike])).calibrate(PROMPTS, RESPONSES)


@pytest.mark.parametrize("change", [{"above": None, "share": None}, {"above": 1.0, "share": 0.1}])
def test_one_rule_says_when(change) -> None:
    with pytest.raises(ValueError, match="one of `above` and `share`"):
        reward(conf("reward/cascade"), **change)
