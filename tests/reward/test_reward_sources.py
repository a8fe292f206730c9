"""Scores from models, judges, functions and mixtures of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_reward_settings import JUDGE, PM, PRINCIPLES, function, mixture, reward

from morlaif.errors import UserError
from morlaif.feedback.rating import Rating, Single
from morlaif.feedback.records import Usage
from morlaif.feedback.settings import Criterion
from morlaif.reward.functions import length_near, matches
from morlaif.reward.settings import layout
from morlaif.reward.sources import FunctionScores, JudgeScores, open_reward
from morlaif.rl.scores import check_scores
from morlaif.toy.judge import score
from morlaif.toy.world import make_world

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(4)]
TEXTS = ["one", "one two", "one two three", "one two three four"]
CRITERIA = {name: Criterion(name=name, ask="How good?", covers=(name,)) for name in PRINCIPLES}


def functions(tree=None, given: Callable | None = None, names=("score",)) -> FunctionScores:
    settings = reward(tree or function(names=list(names), params={}))
    return FunctionScores(tuple(names), partial(given, **settings.params), f"reward.function '{settings.function}'")


# --- functions ---


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, lambda x: np.array(x, dtype=np.float64)[:, None]]
)
def test_a_function_may_give_what_it_likes(kind):
    scores = functions(given=lambda prompts, responses: kind([float(len(text)) for text in responses]))
    assert torch.equal(scores(PROMPTS, TEXTS), torch.tensor([[3.0], [7.0], [13.0], [18.0]]))


@pytest.mark.parametrize(
    ("given", "names", "says"),
    [
        (
            [1.0, 2.0, 3.0],
            ("score",),
            r"gave shape \(3, 1\) for 4 responses and 1 names \(score\); it must be \(4, 1\)",
        ),
        ([1.0] * 4, ("a", "b"), r"gave shape \(4,\) for 4 responses and 2 names \(a, b\); it must be \(4, 2\)"),
        (1.0, ("score",), r"gave shape \(\) for 4"),
        (["x"] * 4, ("score",), r"gave list, not numbers of shape \(4, 1\)"),
        (None, ("score",), "gave NoneType, not numbers"),
        ([[1.0], [1.0, 2.0], [], []], ("score",), "gave list, not numbers"),
    ],
)
def test_what_a_function_gives_is_checked(given, names, says):
    with pytest.raises(UserError, match=says) as caught:
        functions(given=lambda prompts, responses: given, names=names)(PROMPTS, TEXTS)
    assert "\n" not in str(caught.value)


def test_our_functions():
    assert length_near(PROMPTS, TEXTS, words=2) == [-0.5, 0.0, -0.5, -1.0]
    assert matches(PROMPTS, TEXTS, pattern=r"three$") == [0.0, 0.0, 1.0, 0.0]


# --- a judge ---


class Scripted:
    """A rater that says what it is told to, attempt by attempt; None: nothing usable."""

    name = "scripted"

    def __init__(self, says: Callable[[Single], float | None]) -> None:
        self.says, self.usage, self.asked = says, Usage(), []

    def judge(self, asked) -> Iterator[tuple[Single, Rating]]:
        for single in reversed(list(asked)):  # in whatever order
            self.asked.append((single.response, single.principle.name, single.attempt))
            value = self.says(single)
            yield single, Rating(single.id, value, self.name, None if value is not None else "no rating")


def judged(says, **changes) -> tuple[JudgeScores, Scripted]:
    rater = Scripted(says)
    asked = {name: CRITERIA[name] for name in PRINCIPLES[:2]}
    return JudgeScores(rater, asked, reward(JUDGE, **changes), "reward"), rater


def test_ratings_stand_in_their_row_and_column_and_equal_responses_share_one():
    scores, rater = judged(lambda s: len(s.response) / 100 + (s.principle.name == "toxicity"))
    found = scores([*PROMPTS, PROMPTS[0]], [*TEXTS, TEXTS[0]])
    expected = [[len(text) / 100, len(text) / 100 + 1] for text in [*TEXTS, TEXTS[0]]]
    assert torch.allclose(found, torch.tensor(expected)) and found.shape == (5, 2)
    facts = scores.take_facts()
    assert len(rater.asked) == 8 and facts["ratings"] == 10 and facts["invalid"] == 0
    assert set(scores.take_facts().values()) == {0}  # counted once


def test_an_unusable_rating_is_asked_again_and_then_neutral():
    def says(single: Single) -> float | None:
        if single.response == "one":
            return None  # never
        return None if single.response == "one two" and not single.attempt else len(single.response) / 100

    scores, rater = judged(says, asks=3, max_invalid=0.25)
    found = scores(PROMPTS, TEXTS)
    assert found[1:, 0].tolist() == pytest.approx([0.07, 0.13, 0.18])
    assert found[0, 0].item() == pytest.approx((0.07 + 0.13 + 0.18) / 3)  # the mean of the others
    assert sorted(a for text, name, a in rater.asked if text == "one" and name == "toxicity") == [0, 1, 2]
    assert sorted(a for text, name, a in rater.asked if text == "one two" and name == "toxicity") == [0, 1]
    assert scores.take_facts()["invalid"] == 2


def test_too_many_unusable_ratings_stop_with_their_reasons():
    scores, _ = judged(lambda s: None if s.principle.name == "toxicity" and s.response in TEXTS[:2] else 0.1)
    says = r"reward: 2 of 4 ratings by scripted under 'toxicity' are not usable \(2 × no rating\); reward\.max_inv"
    with pytest.raises(UserError, match=says):
        scores(PROMPTS, TEXTS)


def test_an_engine_of_its_own_is_named_where_its_settings_stand():
    def broke(single: Single) -> float:
        raise UserError("feedback from M: feedback.budget_usd=1 is reached, raise it")

    scores, _ = judged(broke)
    with pytest.raises(UserError, match=r"feedback\.budget_usd=1 is reached"):
        scores(PROMPTS, TEXTS)
    from test_reward_settings import RULES

    scores, _ = judged(broke, engine=RULES.model_dump())
    with pytest.raises(UserError, match=r"feedback from M: reward\.engine\.budget_usd=1 is reached"):
        scores(PROMPTS, TEXTS)


# --- together ---


def opened(tree, tmp_path):
    from test_reward_settings import RULES

    plan = layout(reward(tree), PRINCIPLES)

    def models(names, asked):
        assert not asked
        return SimpleNamespace(
            score=lambda prompts, responses: torch.tensor(
                [[float(len(t) + k) for k in range(len(names))] for t in responses]
            )
        )

    return plan, open_reward(plan, models=models, criteria=CRITERIA, feedback=RULES, ledger=tmp_path / "l")


def test_a_mixture_puts_its_columns_side_by_side(tmp_path):
    examples = make_world(1, sft=1, train=6, eval=1)["train"]
    prompts, texts = [e.messages for e in examples], [e.chosen for e in examples]
    tree = mixture(
        models=PM | {"principles": ["detail", "toxicity"]},
        judge=JUDGE | {"principles": ["toxicity"]},
        form=function(names=["length"]),
    )
    plan, source = opened(tree, tmp_path)
    assert source.names == tuple(plan.names) == ("detail", "toxicity", "judge_toxicity", "length")
    scores = source(prompts, texts)
    assert scores[:, 0].tolist() == [len(text) for text in texts] and scores[:, 1].tolist() == [
        len(t) + 1 for t in texts
    ]
    true = [score("toxicity", messages, text) / 2 for messages, text in zip(prompts, texts, strict=True)]
    assert scores[:, 2].tolist() == pytest.approx(true)
    assert scores[:, 3].tolist() == pytest.approx(length_near(prompts, texts, words=30))
    assert source.take_facts()["ratings"] == 6


@pytest.mark.parametrize(
    ("bad", "says"),
    [(float("nan"), "the score of 'x' is nan for response 2"), (1.0, "the score of 'x' is 1 for all 4 responses")],
)
def test_nan_and_constant_scores_of_any_source_stop_ppo(bad, says):
    values = [1.0, 1.0, bad, 1.0]

    def model(prompts, responses):
        return torch.tensor(values)[:, None]

    judge, _ = judged(lambda s: dict(zip(TEXTS, values, strict=True))[s.response])
    for scores in (functions(given=lambda p, r: values)(PROMPTS, TEXTS), judge(PROMPTS, TEXTS)[:, :1], model(0, 0)):
        with pytest.raises(UserError, match=says):
            check_scores(scores, ["x"], TEXTS, 3, allow_constant=False)
