from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from morlaif.feedback.settings import FeedbackSettings, HumanSettings, PrinciplesSettings
from morlaif.presets import preset
from morlaif.toy import judge as toy


def principles(**overrides) -> PrinciplesSettings:
    return PrinciplesSettings(**preset("principles", "paper12") | overrides)


def test_the_twelve_principles_are_those_of_the_toy_world():
    assert tuple(p.name for p in principles().chosen) == toy.PRINCIPLES
    assert all(p.covers == (p.name,) for p in principles().chosen)


def test_the_constitution_can_be_judged_by_rules():
    constitution = principles().constitution
    assert 14 <= len(constitution) <= 20
    assert all(set(p.covers) <= set(toy.PRINCIPLES) for p in constitution)
    assert {name for p in constitution for name in p.covers} == set(toy.PRINCIPLES)


def test_selection_keeps_the_order_given():
    assert [p.name for p in principles(select=["detail", "bias"]).chosen] == ["detail", "bias"]
    assert [p.name for p in principles(count=2).chosen] == ["helpfulness", "ethicality"]


@pytest.mark.slow
def test_random_subsets_are_nested_and_seeded():
    def names(count, seed=0):
        return [p.name for p in principles(order="random", seed=seed, count=count).chosen]

    assert names(None)[:4] == names(4)
    assert names(4)[:2] == names(2)
    assert sorted(names(None)) == sorted(toy.PRINCIPLES)
    assert len({tuple(names(4, seed)) for seed in range(8)}) > 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"select": ["helpfullness"]}, "Did you mean 'helpfulness'"),
        ({"select": []}, "at least one"),
        ({"select": ["bias", "bias"]}, "each principle once"),
        ({"count": 13}, "13 asked for, 12 to choose from"),
        ({"select": ["bias"], "count": 2}, "2 asked for, 1 to choose from"),
        ({"verdicts_per_pair": 99}, "length of the constitution"),
        (
            {"definitions": {"single": {"question": "q", "description": "d", "covers": ["bias"]}}},
            "names another",
        ),
        ({"definitions": {"a/b": {"question": "q", "description": "d", "covers": ["bias"]}}}, "name"),
        ({"definitions": {"x": {"question": "q", "description": "d", "covers": []}}}, "covers"),
    ],
)
def test_mistakes_are_named(wrong, said):
    with pytest.raises(ValidationError, match=said):
        principles(**wrong)


def test_sources_are_distinguished_by_their_name():
    adapter = TypeAdapter(FeedbackSettings)
    assert adapter.validate_python({"source": "human"}) == HumanSettings(source="human")
    for name in ("rules", "openai", "server"):
        assert adapter.validate_python(preset("feedback", name)).source in ("rules", "openai")
    with pytest.raises(ValidationError, match="openai"):
        adapter.validate_python({"source": "opnai"})


def test_the_judge_sets_its_own_decoding():
    with pytest.raises(ValidationError, match="'temperature' is set by the judge"):
        TypeAdapter(FeedbackSettings).validate_python(preset("feedback", "server") | {"extra_body": {"temperature": 1}})
