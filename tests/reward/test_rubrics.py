"""Criteria and weights by prompt: what is missing changes nothing, and a full rubric is the run's principles."""

from __future__ import annotations

import json

import pytest
import torch
from test_reward_settings import RULES, reward

from morlaif.errors import UserError
from morlaif.feedback.judge import open_rater
from morlaif.feedback.reply import Reply
from morlaif.feedback.rubric import Checklist, OneByOne, Ratings, field_rated, field_written, readable
from morlaif.feedback.settings import Criterion, PrinciplesSettings
from morlaif.presets import options, preset
from morlaif.reward.rubrics import Rubrics, RubricScores
from morlaif.reward.sources import JudgeScores
from morlaif.scalarize.masked import check_maskable, masked
from morlaif.scalarize.objective import Objective
from morlaif.scalarize.registry import resolve
from morlaif.scalarize.settings import ScalarizerSettings
from morlaif.toy.world import make_world

SCALARIZERS = {name: ScalarizerSettings(**preset("scalarizer", name)) for name in options()["scalarizer"]}
BY_NAME = {"constrained", "gated", "hypervolume", "lagrangian", "lexicographic", "scheduled", "single"}
PRINCIPLES = ["helpfulness", "toxicity", "detail"]
TREE = preset("reward", "rubric")


@pytest.fixture(scope="module")
def principles() -> PrinciplesSettings:
    return PrinciplesSettings(**preset("principles", "paper12"))


def of(name: str):
    return resolve(SCALARIZERS[name])


# --- masked scalarizers ---


def test_those_that_know_principles_by_name_say_so():
    for name in SCALARIZERS:
        if name in BY_NAME:
            with pytest.raises(UserError, match=f"{name} knows its principles by name"):
                check_maskable(of(name))
        else:
            check_maskable(of(name))


@pytest.mark.parametrize("name", sorted(set(SCALARIZERS) - BY_NAME))
def test_a_masked_entry_changes_nothing(name):
    """A row's value is that of its own scores alone, wherever the gaps are and whatever other rows have."""
    generator, scalarizer = torch.Generator().manual_seed(3), of(name)
    scores, weights = torch.randn(40, 5, generator=generator), torch.rand(40, 5, generator=generator) + 0.5
    gone = torch.rand(40, 5, generator=generator) < 0.4
    gone[:, 0] &= ~gone.all(1)  # each row keeps one
    holed = scores.masked_fill(gone, torch.nan)
    found = masked(scalarizer, holed, weights)
    for row in range(40):
        kept = ~gone[row]
        own, by = scores[row, kept][None], weights[row, kept]
        assert found[row].item() == pytest.approx(scalarizer(own * by, weights=by[None]).item(), abs=1e-6)
    assert torch.equal(found, masked(scalarizer, holed, weights.masked_fill(gone, 9.0)))
    wider = torch.cat([holed, torch.full((40, 2), torch.nan)], 1)
    assert torch.allclose(masked(scalarizer, wider, torch.cat([weights, torch.ones(40, 2)], 1)), found)


@pytest.mark.parametrize("name", sorted(set(SCALARIZERS) - BY_NAME))
def test_without_a_gap_it_is_the_objective(name):
    names, weights = ("a", "b", "c"), torch.tensor([1.0, -2.0, 0.5])
    scores = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    zero, one = torch.zeros(3), torch.ones(3)
    objective = Objective(names, zero, one, weights.sign(), weights.abs(), of(name), normalizer="none")
    assert torch.allclose(masked(of(name), scores, weights.expand(9, 3)), objective(scores), atol=1e-6)


def test_a_row_without_scores_is_an_error():
    with pytest.raises(ValueError, match="row 1 has no score"):
        masked(of("linear"), torch.tensor([[1.0], [torch.nan]]), torch.ones(2, 1))


# --- the file ---


def written(tmp_path, *rows):
    path = tmp_path / "rubrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def item(text: str, weight: float = 1.0, covers=("detail",)) -> dict:
    return {"criterion": text, "weight": weight, "covers": list(covers)}


def test_each_prompt_has_its_own_and_one_line_serves_all_others(tmp_path):
    turns = [{"role": "user", "content": "Why?"}]
    rows = [
        {"prompt": "Who?", "criteria": [item("names one", 2.0), item("is kind", 0.0)]},
        {"prompt": turns, "criteria": [{"criterion": "says why"}]},
        {"criteria": [item("is true")]},
    ]
    rubrics = Rubrics.read(written(tmp_path, *rows), "reward.path")
    who = rubrics.of([{"role": "user", "content": "Who?"}])
    assert [c.ask for c in who.criteria] == ["names one"] and who.weights == (2.0,)  # a weight of zero leaves
    assert rubrics.of(turns).criteria[0].ask == "says why" and rubrics.of(turns).weights == (1.0,)
    assert rubrics.of([{"role": "user", "content": "Else"}]).criteria[0].ask == "is true"
    with pytest.raises(UserError, match="no rubric for the prompt 'Else'"):
        Rubrics.read(written(tmp_path, *rows[:2]), "reward.path").of([{"role": "user", "content": "Else"}])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "criteria": []}, r":1: criteria: .*at least 1"),
        ({"prompt": "a", "criteria": [{"criterion": "x", "wieght": 2}]}, r":1: criteria\.0\.wieght"),
        ({"prompt": "a", "criteria": [item("x", 0.0)]}, "every weight is zero"),
        ({"prompt": "a", "criteria": [item("x"), item("x")]}, "given twice"),
        ({"prompt": 3, "criteria": [item("x")]}, "'prompt' is a number"),
    ],
)
def test_a_mistake_is_told_with_its_line(row, says, tmp_path):
    with pytest.raises(UserError, match=says) as caught:
        Rubrics.read(written(tmp_path, row), "reward.path")
    assert "\n" not in str(caught.value)


# --- the reward ---


def scores_of(path, name: str = "linear", rater=None, **changes) -> RubricScores:
    settings = reward(TREE, path=str(path), scalarizer=SCALARIZERS[name].model_dump(), **changes)
    rater = rater or OneByOne(open_rater(RULES, ledger=path.with_suffix(".l"), highest=10))
    return RubricScores(("rubric",), rater, Rubrics.read(path, "reward.path"), settings, "reward")


@pytest.mark.parametrize("name", ["linear", "max_min", "bernoulli_nash", "cvar"])
def test_a_full_rubric_is_the_runs_principles(name, principles, tmp_path):
    """Every principle of the run for every prompt: ratings as of `reward=judge`, the value its objective's."""
    chosen = [principle for principle in principles.chosen if principle.name in PRINCIPLES]
    asked = {principle.name: principles.criterion(principle) for principle in chosen}
    full = {"criteria": [item(criterion.ask, 1.0, criterion.covers) for criterion in asked.values()]}
    rubric = scores_of(written(tmp_path, full), name)
    rater = open_rater(RULES, ledger=tmp_path / "l", highest=10)
    judge = JudgeScores(rater, asked, reward(preset("reward", "d_rlaif")), "reward")
    examples = make_world(1, sft=1, train=12, eval=1)["train"]
    prompts, texts = [e.messages for e in examples], [e.chosen for e in examples]
    ratings, weights = rubric.ratings(prompts, texts)
    fixed = judge(prompts, texts)
    assert torch.allclose(ratings, fixed) and bool((weights == 1).all())
    objective = Objective.of(of(name), list(asked))
    assert torch.allclose(rubric(prompts, texts)[:, 0], objective(fixed), atol=1e-6)
    rubric.take_facts()
    rubric.ratings(prompts, texts)
    assert rubric.take_facts()["ratings"] == 12 * len(asked) == judge.take_facts()["ratings"]


class Says:
    name = "says"

    def __init__(self, of):
        self.of, self.attempts = of, []

    def judge(self, asked):
        for row in reversed(list(asked)):
            self.attempts.append((row.response, row.attempt))
            scores = self.of(row)
            yield row, Ratings(row.id, scores, "says", None if None not in scores else "no rating", usd=0.5)


def test_prompts_with_more_and_fewer_criteria_stand_side_by_side(tmp_path):
    rows = [{"prompt": "a", "criteria": [item("x", 2.0), item("y", -1.0), item("z")]}, {"criteria": [item("x")]}]
    rater = Says(lambda row: tuple(0.1 * (k + len(row.response)) for k in range(len(row.criteria))))
    scores = scores_of(written(tmp_path, *rows), rater=rater)
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b")]
    assert scores(prompts, ["r", "rr"])[:, 0].tolist() == pytest.approx([2 * 0.1 - 0.2 + 0.3, 0.2])
    facts = scores.take_facts()
    assert (facts["ratings"], facts["invalid"], facts["usd"]) == (4, 0, 1.0)


def test_answers_that_are_not_usable_are_asked_for_again_counted_and_in_the_end_too_many(tmp_path):
    path = written(tmp_path, {"criteria": [item("x"), item("y")]})
    prompts = [[{"role": "user", "content": "a"}]] * 4
    rater = Says(lambda row: (0.5, None) if row.response == "bad" else (0.5, 0.1))
    scores = scores_of(path, rater=rater, max_invalid=0.25)
    found = scores(prompts, ["ok", "bad", "fine", "good"])
    assert found[1].item() == pytest.approx(0.6)  # the mean of the others
    assert [attempt for text, attempt in rater.attempts if text == "bad"] == [0, 1]
    assert scores.take_facts()["invalid"] == 1
    with pytest.raises(UserError, match=r"reward: 1 of 4 answers by says are not usable \(1 × no rating\)"):
        scores_of(path, rater=rater, max_invalid=0.1)(prompts, ["ok", "bad", "fine", "good"])


# --- one request ---


def test_what_is_read_of_one_joint_reply():
    text = '{"c1": 7, "c2": 10}'
    plain = Reply(f"```json\n{text}\n```", None, None, "stop", 1, 1, "")
    assert [field_written(10, key, plain)[0] for key in ("c1", "c2", "c3")] == [7.0, 10.0, None]
    assert field_written(9, "c2", plain)[0] is None
    assert readable(["c1", "c2"], plain) == (None, "ok") and readable(["c3"], plain)[1] != "ok"
    tokens = [[(part, 0.0)] for part in ('{"', "c1", '": ')] + [[("7", -0.7), ("5", -0.7)]]
    tokens += [[(part, 0.0)] for part in (', "', "c2", '": ', "1", "0", "}")]
    listed = Reply(text, None, tokens, "stop", 1, 1, "")
    assert field_rated(10, "c1", listed)[0] == pytest.approx(6.0)
    assert field_rated(10, "c2", listed) == (10.0, "ok")  # two tokens: as it is written


def test_a_response_is_one_answer_of_a_rater_that_takes_criteria_one_by_one(principles, tmp_path):
    rater = OneByOne(open_rater(RULES, ledger=tmp_path / "l", highest=10))
    criteria = tuple(principles.criterion(p) for p in principles.chosen[:3])
    asked = [Checklist.of([{"role": "user", "content": "Q"}], text, criteria[: k + 1]) for k, text in enumerate("abc")]
    found = {row.response: ratings for row, ratings in rater.judge(asked)}
    assert [len(found[text].scores) for text in "abc"] == [1, 2, 3] and all(r.valid for r in found.values())
    twice = Checklist.of([{"role": "user", "content": "Q"}], "d", (criteria[0], Criterion(**criteria[0].model_dump())))
    assert len(next(rater.judge([twice]))[1].scores) == 2
