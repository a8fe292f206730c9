"""What an arm that learns from verdicts needs, and what does not change it."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.pipeline.fits import fit_problems
from morlaif.planning.plan import plan

ARMS = "arms.select=[dpo,modpo,rdo]"


def units(*overrides: str):
    return plan(config(ARMS, "principles.count=2", *overrides)).by_name


def test_dpo_needs_verdicts_alone_and_the_others_the_arms_reward():
    made = units()
    needs = {arm: {need.name for need in made[f"dpo/{arm}"].needs} for arm in ("dpo", "modpo", "rdo")}
    both = {f"{stage}/{name}" for stage in ("feedback", "pm") for name in ("helpfulness", "ethicality")}
    assert needs["dpo"] == {"sft", "respond", "feedback/single"}
    assert needs["modpo"] == {"sft", "respond", "weigh/modpo"} | both
    assert needs["rdo"] == {"sft", "respond", "weigh/rdo"} | both


@pytest.mark.slow
def test_preference_models_and_the_other_methods_do_not_change_it():
    usual = units()
    other = units("pm.epochs=3", "ppo.steps=3", "dpo.micro_batch_size=1", "dpo.checkpoint_every=1")
    assert other["dpo/dpo"].digest == usual["dpo/dpo"].digest
    assert other["dpo/rdo"].digest != usual["dpo/rdo"].digest  # it reads what these models say
    assert units("dpo.beta=0.2")["dpo/dpo"].digest != usual["dpo/dpo"].digest
    assert units("dpo.seed=3")["dpo/dpo"].digest != usual["dpo/dpo"].digest
    assert units("dpo.seed=3")["pm/single"].digest == usual["pm/single"].digest


@pytest.mark.slow
def test_verdicts_are_there_where_the_reward_needs_none():
    """A judge as the reward rates responses; DPO's pairs are labelled all the same."""
    made = units("reward=judge")
    assert {"feedback/single", "feedback/helpfulness", "feedback/ethicality"} <= made.keys()
    assert not any(name.startswith("pm/") for name in made)
    assert {need.name for need in made["dpo/dpo"].needs} == {"sft", "respond", "feedback/single"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arms.definitions.dpo.labels=none"], r"definitions\.dpo\.labels: .*(dpo learns from verdicts|none, but)"),
        (
            [
                "arms.select=[odd]",
                "+arms.definitions.odd={labels: principles, method: dpo, change: {dpo.kind: modpo, dpo.principle: no}}",
            ],
            r"definitions\.odd: dpo\.principle: the arm's reward has no 'no'; it has helpfulness, ethicality",
        ),
        (["dpo.principle=helpfulness"], r"dpo\.principle: helpfulness is of kind: modpo|principle: helpfulness"),
    ],
)
def test_what_cannot_be_learnt_from_is_reported(overrides, message):
    with pytest.raises(UserError, match=message):
        units(*overrides)


def test_dialogues_that_are_longer_than_the_model_are_reported():
    """Of an arm that learns from them alone."""
    long = "dpo.max_length=9999"
    lines = list(fit_problems(config(ARMS, long), {"dpo"}))
    assert len(lines) == 1 and lines[0].startswith("dpo.max_length=9999 exceeds the model's ")
    assert not list(fit_problems(config("arms.select=[morlaif]", long), {"dpo"}))
