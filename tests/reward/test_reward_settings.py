"""Which columns a reward has, and what is told of a mistake before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from morlaif.errors import UserError
from morlaif.feedback.settings import FeedbackSettings
from morlaif.presets import preset
from morlaif.reward.settings import RewardSettings, check, find_function, layout, of_whole

CONF = Path(__file__).parents[2] / "conf"
PRINCIPLES = ["helpfulness", "toxicity", "detail"]
NEAR = "morlaif.reward.functions.length_near"


def conf(path: str) -> dict[str, Any]:
    return preset(*path.split("/"))


def reward(tree: dict[str, Any], **changes: Any) -> Any:
    return TypeAdapter(RewardSettings).validate_python(tree | changes)


def function(**changes: Any) -> dict[str, Any]:
    return conf("reward/function") | {"function": NEAR, "params": {"words": 30}} | changes


def mixture(**parts: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "mixture", "parts": parts, "weights": dict.fromkeys(parts, 1.0), "schedule": None}


RULES = TypeAdapter(FeedbackSettings).validate_python(conf("feedback/rules"))
PM, JUDGE = conf("reward/pm"), conf("reward/judge")


def test_columns_of_each_kind():
    assert layout(reward(PM), PRINCIPLES).models == PRINCIPLES
    chosen = layout(reward(PM, principles=["detail", "toxicity"]), PRINCIPLES)
    assert chosen.names == chosen.models == ["detail", "toxicity"]
    drawn = layout(reward(PM, draw=2, written={"brevity": "Which is shorter?"}), PRINCIPLES)
    assert drawn.names == ["principle_set"] and drawn.models == PRINCIPLES
    (asked,) = drawn.parts[""].asks(drawn.columns).values()
    assert (asked.models, asked.draw, asked.written) == (tuple(PRINCIPLES), 2, {"brevity": "Which is shorter?"})
    written = layout(reward(PM, principles=["detail"], written={"brevity": "Which is shorter?"}), PRINCIPLES)
    assert written.names == ["detail", "brevity"] and written.models == ["detail"]
    assert written.parts[""].asks(written.columns).keys() == {"brevity"}
    judged = layout(reward(JUDGE), PRINCIPLES)
    assert judged.names == PRINCIPLES and judged.models == []
    made = layout(reward(function(names=["brief", "plain"])), PRINCIPLES)
    assert made.names == ["brief", "plain"] and made.models == []


def test_a_mixture_gives_each_column_a_name_of_its_own_and_its_weight():
    tree = mixture(models=PM, judge=JUDGE | {"principles": ["toxicity"]}, form=function(names=["length"]))
    tree["weights"] |= {"judge": 0.5}
    found = layout(reward(tree), PRINCIPLES)
    assert found.names == [*PRINCIPLES, "judge_toxicity", "length"] and found.models == PRINCIPLES
    assert [column.weight for column in found.columns] == [1, 1, 1, 0.5, 1]
    assert [column.own for column in found.of("judge")] == ["toxicity"]
    clash = mixture(models=PM, form=function(names=["a_toxicity"]), a=function(names=["toxicity"]))
    with pytest.raises(UserError, match=r"reward\.parts\.a: two columns 'a_toxicity'"):
        layout(reward(clash), PRINCIPLES)


def test_the_baseline_has_a_model_or_one_rating():
    assert (
        of_whole(reward(PM), "constitution").models == ["single"] == of_whole(reward(function()), "constitution").models
    )
    assert of_whole(reward(JUDGE), "human").models == ["human"]
    rated = of_whole(reward(JUDGE), "constitution")
    assert rated.names == ["single"] and rated.models == []


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (JUDGE | {"highest": 11}, "less than or equal to 10"),
        (JUDGE | {"max_invalid": 1.0}, "less than 1"),
        (function(names=["a", "a"]), "two columns with one name"),
        (function(names=["single"]), "none of single, human"),
        (function(names=["Über"]), "small letters"),
        (mixture(models=PM) | {"weights": {"modles": 1.0}}, "none for the part 'models'.* Did you mean 'modles'"),
        (mixture(models=PM) | {"weights": {"models": 1.0, "x": 1.0}}, "no part 'x'"),
        (mixture(models=PM) | {"weights": {"models": -1.0}}, "greater than 0"),
        (mixture(inner=mixture(models=PM)), "does not match any of the expected tags"),
    ],
)
def test_settings_that_cannot_be_meant(tree, says):
    with pytest.raises(ValidationError, match=says):
        reward(tree)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (
            function(function=None),
            r"reward\.function: give a dotted path such as morlaif\.reward\.functions\.length_near",
        ),
        (function(function="length_near"), "expected a dotted path .*Did you mean 'length_near'"),
        (function(function="morlaif.reward.functions.length_neer"), "Did you mean 'length_near'"),
        (function(function="nowhere.at_all"), "no module 'nowhere'; is it installed, or its folder on PYTHONPATH"),
        (
            function(params={"wordz": 3}),
            r"reward\.params\.wordz: .* no such parameter \(it has: words\)\. Did you mean",
        ),
        (function(params={}), "missing a required argument: 'words'; it is called with prompts and responses"),
        (mixture(form=function(params={})), r"reward\.parts\.form\.function"),
    ],
)
def test_a_function_is_checked_before_anything_is_built(tree, says):
    with pytest.raises(UserError, match=says) as caught:
        check(reward(tree), RULES)
    assert "\n" not in str(caught.value)


def test_a_function_of_the_user_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text("def polite(prompts, responses, **any): return [1.0] * len(responses)\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = reward(function(function="my_reward.polite", params={"whatever": 1}))
    assert find_function(settings, "reward")([], ["a"], whatever=1) == [1.0]
    sys.modules.pop("my_reward")


def test_a_principle_that_the_run_lacks_is_named():
    with pytest.raises(UserError, match=r"reward\.principles: 'detial' is not in this run .* Did you mean 'detail'"):
        layout(reward(JUDGE, principles=["detial"]), PRINCIPLES)
    with pytest.raises(UserError, match=r"reward\.parts\.a\.principles: give each principle once"):
        layout(reward(mixture(a=PM | {"principles": []})), PRINCIPLES)


def test_what_the_run_has_is_not_written_again():
    with pytest.raises(UserError, match=r"reward.written.detail: the run has a principle of this name"):
        layout(reward(PM, written={"detail": "Which has more detail?"}), PRINCIPLES)
    with pytest.raises(UserError, match=r"\+reward.written.brevity="):
        layout(reward(PM, principles=["brevity"]), PRINCIPLES)


def test_limits_and_money_change_no_digest():
    from morlaif.settings import identity

    def digest(**changes: Any) -> Any:
        engine = conf("feedback/openai")
        engine |= {k: v for k, v in changes.items() if k in engine}
        rest = {k: v for k, v in changes.items() if k not in engine}
        return identity(layout(reward(JUDGE, engine=engine, **rest), PRINCIPLES))

    assert digest() == digest(budget_usd=3.0) == digest(max_invalid=0.5) == digest(concurrency=2)
    assert digest() != digest(model="other") and digest() != digest(highest=7)
