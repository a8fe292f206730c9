"""One preference model of the budget of many: what it is given more, and what it shares with the usual one."""

from __future__ import annotations

import re

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.naming import labelled_by, more_of
from morlaif.planning.arms import arms_of
from morlaif.planning.plan import plan
from morlaif.preference.settings import EnsemblePM

SMALL = ("experiment=smoke", "principles.count=3")
MORE = ("rlaif_ensemble", "rlaif_longer", "rlaif_wider")
ALL = f"arms.select=[morlaif,rlaif,{','.join(MORE)}]"


def units(*overrides: str) -> dict:
    return {unit.name: unit for unit in plan(config(*SMALL, *overrides)).units}


def test_each_has_a_model_of_its_own_from_the_same_labels():
    made, usual = units(ALL), units("arms.select=[morlaif,rlaif]")
    models = {"single_x3_members", "single_x3_steps", "single_x3_rank"}
    assert {name for name in made if name.startswith("pm/single")} == {"pm/single", *(f"pm/{name}" for name in models)}
    assert [name for name in made if name.startswith("feedback/single")] == ["feedback/single"]
    assert (more_of("single_x3_members"), more_of("single_x3_steps")) == ("3 members", "3 times the steps")
    assert more_of("single") == more_of("helpfulness_x3_rank") == ""
    assert all(labelled_by(name) == "single" for name in models) and labelled_by("helpfulness_x3_rank") != "helpfulness"
    assert {name for name in usual if usual[name].digest != made[name].digest} == {"evaluate", "report"}
    settings = {name: made[f"pm/{name}"].reads.pm for name in models}
    base = made["pm/single"].reads.pm
    ensemble = settings["single_x3_members"]
    assert isinstance(ensemble, EnsemblePM) and (ensemble.members, ensemble.lora) == (3, base.lora)
    assert settings["single_x3_steps"].epochs == 3 * base.epochs
    wide = settings["single_x3_rank"].lora
    assert (wide.r, wide.alpha / wide.r) == (3 * base.lora.r, base.lora.alpha / base.lora.r)
    assert [need.name for need in made["ppo/rlaif_wider"].of("pm")] == ["pm/single_x3_rank"]
    assert made["weigh/rlaif_longer"].reads.names == ("single_x3_steps",)


def test_of_one_principle_they_are_the_usual_model():
    made = units("principles.count=1", ALL)
    assert [name for name in made if name.startswith("pm/single")] == ["pm/single"]


@pytest.mark.slow
def test_a_definition_says_how_much_more_and_leaves_out_the_rest():
    own = "+arms.definitions.own={labels: human, models: {steps: 2}}"
    arm = arms_of(config(*SMALL, own, "arms.select=[morlaif,own]"))["own"]
    assert arm.factors == {"steps": 2} and arm.layout.models == ["human_x2_steps"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("+arms.definitions.a={labels: principles, models: {rank: 2}}", "arms.select=[a]"), "one preference model"),
        (("pm=toy_full", "arms.select=[morlaif,rlaif_wider]"), "no adapter"),
        (("pm=toy_heads", "arms.select=[morlaif,rlaif_ensemble]"), "lora or trunk"),
        (("reward=judge", "arms.select=[morlaif,rlaif_longer]"), "one preference model"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_more_is_said_before_anything_is_built(overrides, words):
    with pytest.raises(UserError, match=words) as error:
        plan(config(*SMALL, *overrides))
    assert str(error.value).startswith("arms.definitions.")


@pytest.mark.slow
def test_an_arm_that_changes_pm_has_models_to_itself_from_the_labels_of_all():
    change = "pm.kind: ensemble, pm.member: lora, pm.members: 2, pm.aggregate: mean, pm.penalty: 0, pm.top: 1"
    change += ", pm.cache_gb: 0"
    own = f"+arms.definitions.own={{labels: principles, change: {{{change}}}}}"
    made, usual = units(own, "arms.select=[morlaif,own]"), units("arms.select=[morlaif]")
    names = [name.removeprefix("pm/") for name in usual if name.startswith("pm/")]
    assert [name for name in made if name.startswith("feedback/")] == [f"feedback/{name}" for name in names]
    models = [f"pm/{name}{of}" for of in ("", "@own") for name in names]
    assert [name for name in made if name.startswith("pm/")] == models
    assert isinstance(made[f"pm/{names[0]}@own"].reads.pm, EnsemblePM)
    assert made["weigh/own"].reads.names == made["weigh/morlaif"].reads.names == tuple(names)
    assert [need.name for need in made["ppo/own"].of("pm")] == [f"pm/{name}@own" for name in names]
    assert all(made[name].digest == usual[name].digest for name in usual if name not in ("evaluate", "report"))
    assert {labelled_by(f"{name}@own") for name in names} == set(names)
    assert more_of("single_x3_members@own") == "3 members"


@pytest.mark.slow
def test_alone_it_leaves_the_usual_models_out():
    own = "+arms.definitions.own={labels: constitution, change: {pm.epochs: 2}}"
    assert [name for name in units(own, "arms.select=[own]") if name.startswith("pm/")] == ["pm/single@own"]


def test_an_arm_may_take_another_preset_of_a_group():
    made = units("arms.select=[morlaif,direct]")
    assert made["weigh/direct"].reads.reward.reward.kind == "judge" and not made["ppo/direct"].of("pm")
    assert made["ppo/morlaif"].reads.reward is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{reward: jugde}", "no preset 'jugde' in reward/. Did you mean 'judge'"),
        ("{pm.kind: nothing}", "pm.kind"),
        ("{reward: judge, pm.epochs: 2}", "this arm's reward has none"),
        ("{data.seed: 2}", "all else is the same"),
    ],
)  # fmt: skip
def test_what_an_arm_cannot_change_is_said(change, words):
    own = f"+arms.definitions.own={{labels: principles, change: {change}}}"
    with pytest.raises(UserError, match=re.escape(words)):
        plan(config(*SMALL, own, "arms.select=[own]"))


def test_an_arm_of_human_labels_learns_from_the_pairs_that_people_have_seen():
    sampled = {unit.name: unit for unit in plan(config("principles.count=2", "arms.select=[morlaif,rlhf]")).units}
    assert [need.name for need in sampled["feedback/human"].needs] == ["respond/human"]
    assert sampled["respond/human"].reads.respond.source == "pairs"
    assert [need.name for need in sampled["pm/human"].of("respond")] == ["respond/human"]
    assert [need.name for need in sampled["pm/helpfulness"].of("respond")] == ["respond"]
    of_data = {unit.name for unit in plan(config("respond=pairs", "arms.select=[morlaif,rlhf]")).units}
    assert "respond/human" not in of_data and "respond" in of_data
