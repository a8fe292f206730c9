"""Presets read without Hydra are those that Hydra composes."""

from __future__ import annotations

import pytest
from composed import composed, config, in_full
from omegaconf import OmegaConf

from morlaif.errors import UserError
from morlaif.presets import options, preset

WHOLE = [("hardware", "a100x8_vllm")]  # which change other groups too
PRESETS = sorted(
    (group, name)
    for group, names in options().items()
    if group not in ("experiment", "sweep") and "/" not in group
    for name in names
    if (group, name) not in WHOLE
)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_a_preset_is_what_hydra_makes_of_it(group, name):
    tree = composed(f"{group}={name}")
    hydra = OmegaConf.to_container(tree[group], resolve=False)
    made = preset(group, name)
    follow = {key: made[key] for key, value in hydra.items() if str(value).startswith("${eval.")}
    assert made == hydra | follow


def test_values_can_be_changed_and_others_stay():
    made, plain = preset("ppo", "toy", steps=3, kl={"coef": 0.5}), preset("ppo", "toy")
    assert made["steps"] == 3 and made["kl"] == plain["kl"] | {"coef": 0.5}
    assert made | {"steps": plain["steps"], "kl": plain["kl"]} == plain


@pytest.mark.parametrize(("group", "name"), WHOLE)
def test_a_preset_of_the_whole_tree_is_none_of_a_group(group, name):
    with pytest.raises(UserError, match="changes other groups"):
        preset(group, name)


def test_a_name_that_is_none_is_told_the_near_one():
    with pytest.raises(UserError, match=r"no preset 'to' in ppo/.*Known: adapter, paper, toy"):
        preset("ppo", "to")


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["experiment=quickstart", "ppo.steps=3", "name=a", "ppo=toy_rloo"],
        ["eval=gold", "principles.count=4", "arms.select=[rlaif]", "paths.store=a b"],
        ["+extra={}", "name=${data.source}", "ppo.kl={coef: .5}"],
    ],
)
def test_values_set_in_a_copy_are_what_hydra_composes(overrides):
    assert composed(*overrides) == in_full(*overrides)
    assert composed("ppo=toy_rloo") == in_full("ppo=toy_rloo"), "the copy is another tree"


def test_stop_strings_follow_the_evaluation():
    """One setting: a policy learns on, and is judged by, responses that end alike."""
    assert preset("ppo", "toy")["stop"] == preset("ppo", "toy_rloo")["stop"] == preset("eval", "toy")["stop"] == []
    assert preset("ppo", "paper")["stop"] == preset("eval", "default")["stop"] == ["\n\nHuman:", "\n\nAssistant:"]
    for given in ([], ["eval=default"], ["ppo=paper"], ['eval.stop=["<|end|>"]'], ["experiment=hh_cpu"]):
        made = config("respond=sample", *given)
        assert list(made.respond.stop) == list(made.ppo.stop) == list(made.eval.stop)
    assert config('ppo.stop=["x"]').ppo.stop == ["x"]
