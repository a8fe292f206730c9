"""Seeds of their own: what is drawn anew, and what stays the same unit."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from composed import config

from morlaif.errors import UserError
from morlaif.planning.plan import plan
from morlaif.settings import identity, shown
from morlaif.stages.known import METHODS
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS.known))
def test_what_a_sweep_over_seeds_varies_trains_every_arm_anew_whatever_its_method(method):
    labels = "constitution" if METHODS.find(method).rewarded else "none"
    how = [f"+arms.definitions.own={{labels: {labels}, method: {method}}}", "arms.select=[own,morlaif]"]
    usual, other = units(*how), units(*how, "arms.seed=1")
    name = f"{method}/own"
    if METHODS.find(method).seeded_by == "eval":  # chooses among samples of the evaluation, and trains nothing
        assert name not in changed(usual, other)
        return
    trained = {unit for unit in usual if unit.partition("/")[0] in METHODS.known}
    assert name in trained and changed(usual, other) == trained | {"evaluate", "report"}
    assert usual[name].seed != other[name].seed
    with_own = [units(*how, f"arms.seed={seed}", f"{method}.seed=3")[name].digest for seed in (1, 2)]
    assert with_own == [units(*how, f"{method}.seed=3")[name].digest] * 2, "a seed of its own group is stronger"


@pytest.mark.slow
def test_a_method_of_the_users_has_the_seed_of_the_arms(plugin):
    own = [
        "+arms.definitions.own={labels: principles, method: morlaif_plugin.untouched.Untouched}", "arms.select=[own]",
    ]  # fmt: skip
    assert changed(units(*own), units(*own, "arms.seed=1")) == {"untouched/own", "evaluate", "report"}


def test_the_sweeps_over_seeds_vary_what_trains_the_policies():
    swept = yaml.safe_load((Path("sweeps") / "sweep" / "seeds.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert "arms.seed" in swept and "arms.seed" in config().claims.vary
    assert not {key.partition(".")[0] for key in (*swept, *config().claims.vary)} & {*METHODS.known}


@pytest.mark.slow
def test_it_is_the_seed_that_counts_and_not_the_key_that_gave_it():
    assert changed(units(), units("ppo.seed=0", "data.seed=0")) == {"report"}  # which shows the config
    groups = ("data", "sft", "respond", "feedback", "pm", "ppo", "eval")
    other = units("seed=7", *(f"{group}.seed=0" for group in groups))
    assert changed(units(), units("seed=7")) == {*units()}
    assert "weigh/morlaif" in changed(units(), other) and not changed(units(), other) & {*MODELS, *LABELS, "sft"}
    eval_settings = config("eval.seed=3").eval
    assert "seed" not in identity(eval_settings) and shown(eval_settings)["seed"] == 3
    assert "seed" not in shown(config().eval)


@pytest.mark.slow
def test_a_gold_judge_stays_the_same_over_the_seeds_of_training():
    usual, other = (units("eval=gold_small", f"pm.seed={seed}", f"feedback.seed={seed}") for seed in (0, 1))
    assert "pm/helpfulness" in changed(usual, other) and not changed(usual, other) & {"pm/gold", "feedback/gold"}


@pytest.mark.slow
def test_an_arm_may_have_a_seed_of_its_own():
    again = "+arms.definitions.again={labels: principles, change: {ppo.seed: 1}}"
    made = units(again, "arms.select=[morlaif,again]")
    assert made["ppo/morlaif"].seed == units()["ppo/morlaif"].seed != made["ppo/again"].seed


@pytest.mark.slow
def test_a_judge_of_policies_has_the_seed_of_the_evaluation():
    with pytest.raises(UserError, match=r"eval\.seed"):
        config("eval=hf", "eval.judge.engine.path=m", "+eval.judge.engine.seed=1")
