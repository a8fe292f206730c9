"""Seeds of their own: what is drawn anew, and what stays the same unit."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.errors import UserError
from morlaif.planning.plan import plan
from morlaif.settings import identity, shown
from morlaif.units.unit import Unit

ARMS = {"ppo/morlaif", "ppo/rlaif"}
MODELS = {"pm/helpfulness", "pm/ethicality", "pm/single"}
LABELS = {"feedback/helpfulness", "feedback/ethicality", "feedback/single"}
END = {"weigh/morlaif", "weigh/rlaif", *ARMS, "evaluate", "report"}
FIRST = {  # what is rebuilt where only this group has another seed
    "ppo": ARMS | {"evaluate", "report"},
    "eval": {"evaluate", "report"},
    "pm": MODELS | END,
    "feedback": LABELS | MODELS | END,
    "respond": {"respond"} | LABELS | MODELS | END,
}


def units(*overrides: str) -> dict[str, Unit]:
    made = plan(config("experiment=smoke", "principles.count=2", *overrides)).units
    return {unit.name: unit for unit in made}


def changed(first: dict[str, Unit], second: dict[str, Unit]) -> set[str]:
    return {name for name in first if first[name].digest != second[name].digest}


@pytest.mark.parametrize("group", FIRST)
def test_a_seed_of_its_own_rebuilds_its_units_and_what_follows(group):
    usual = units()
    others = [units(f"{group}.seed={seed}") for seed in (1, 2)]
    assert changed(usual, others[0]) == changed(usual, others[1]) == changed(*others) == FIRST[group]
    own = [unit for unit in usual.values() if unit.stage.name == {"eval": "evaluate"}.get(group, group)]
    assert own and all(unit.seed != others[0][unit.name].seed for unit in own)


def test_seeds_of_the_policy_share_labels_models_and_held_out_prompts():
    made = [units(f"ppo.seed={seed}") for seed in (0, 1, 2)]
    assert len({unit["ppo/morlaif"].digest for unit in made}) == 3
    assert len({unit[name].digest for unit in made for name in ("data", "sft", *MODELS)}) == 2 + len(MODELS)
    assert len({unit["evaluate"].seed for unit in made}) == 1  # its samples differ by the policy alone


def test_it_is_the_seed_that_counts_and_not_the_key_that_gave_it():
    assert changed(units(), units("ppo.seed=0", "data.seed=0")) == {"report"}  # which shows the config
    groups = ("data", "sft", "respond", "feedback", "pm", "ppo", "eval")
    other = units("seed=7", *(f"{group}.seed=0" for group in groups))
    assert changed(units(), units("seed=7")) == {*units()}
    assert "weigh/morlaif" in changed(units(), other) and not changed(units(), other) & {*MODELS, *LABELS, "sft"}
    eval_settings = config("eval.seed=3").eval
    assert "seed" not in identity(eval_settings) and shown(eval_settings)["seed"] == 3
    assert "seed" not in shown(config().eval)


def test_a_gold_judge_stays_the_same_over_the_seeds_of_training():
    usual, other = (units("eval=gold_small", f"pm.seed={seed}", f"feedback.seed={seed}") for seed in (0, 1))
    assert "pm/helpfulness" in changed(usual, other) and not changed(usual, other) & {"pm/gold", "feedback/gold"}


def test_an_arm_may_have_a_seed_of_its_own():
    again = "+arms.definitions.again={labels: principles, change: {ppo.seed: 1}}"
    made = units(again, "arms.select=[morlaif,again]")
    assert made["ppo/morlaif"].seed == units()["ppo/morlaif"].seed != made["ppo/again"].seed


def test_a_judge_of_policies_has_the_seed_of_the_evaluation():
    with pytest.raises(UserError, match=r"eval\.seed"):
        config("eval=hf", "eval.judge.engine.path=m", "+eval.judge.engine.seed=1")
