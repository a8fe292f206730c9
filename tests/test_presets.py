"""Presets read without Hydra are those that Hydra composes."""

from __future__ import annotations

import re
from typing import Any

import composed as support
import processes
import pytest
import quick_hydra
from composed import composed, config, in_full
from omegaconf import DictConfig, OmegaConf

from morlaif.config import changed
from morlaif.errors import UserError
from morlaif.presets import options, preset

WHOLE = [
    ("hardware", "a100x8_vllm"),
    *((group, name) for group in ("budget", "judge") for name in sorted(options()[group])),
]  # change other groups
PRESETS = sorted(
    (group, name)
    for group, names in options().items()
    if group not in ("experiment", "sweep") and "/" not in group
    for name in names
    if (group, name) not in WHOLE
)


def alone(node: Any) -> Any:
    """A part of a composed tree, its interpolations as they stand but for a run's one judge and a function's name."""
    if not isinstance(node, DictConfig):
        return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    raw = OmegaConf.to_container(node, resolve=False)
    kept = {
        key: isinstance(value, str) and "${" in value and not re.search(r"\$\{morlaif\.(judge|last):", value)
        for key, value in raw.items()
    }
    return {key: raw[key] if stays else alone(node[key]) for key, stays in kept.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_a_preset_is_what_hydra_makes_of_it(group, name):
    tree = composed(f"{group}={name}")
    hydra = alone(tree[group])
    made = preset(group, name)
    follow = {key: made[key] for key, value in hydra.items() if str(value).startswith("${eval.")}
    if hydra.get("seed", 0) is None:  # config.yaml gives the run's seed to all groups
        made = {"seed": None} | made
    assert made == hydra | follow


def test_a_tree_that_another_process_has_kept_resolves():
    words = ("experiment=smoke",)
    found = config(*words)
    OmegaConf.clear_resolver("morlaif.last")  # a process that has composed nothing yet
    for known in (support._pickled, support._config):
        known.cache_clear()
    assert config(*words) == found


def test_values_can_be_changed_and_others_stay():
    made, plain = preset("ppo", "toy", steps=3, kl={"coef": 0.5}), preset("ppo", "toy")
    assert made["steps"] == 3 and made["kl"] == plain["kl"] | {"coef": 0.5}
    assert made | {"steps": plain["steps"], "kl": plain["kl"]} == plain


@pytest.mark.parametrize(("group", "name"), WHOLE)
def test_a_preset_of_the_whole_tree_is_none_of_a_group(group, name):
    with pytest.raises(UserError, match="changes other groups"):
        preset(group, name)


def test_a_name_that_is_none_brings_the_near_one():
    with pytest.raises(UserError, match=r"no preset 'to' in ppo/.*Known: adapter, dr_grpo, "):
        preset("ppo", "to")


@pytest.mark.slow
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
    quick = composed(*overrides)
    with quick_hydra.left_out():
        assert quick == in_full(*overrides)


@pytest.mark.slow
def test_a_copy_is_another_tree():
    composed("ppo=toy_rloo").ppo.steps = 3
    quick = composed("ppo=toy_rloo")
    with quick_hydra.left_out():
        assert quick == in_full("ppo=toy_rloo")


@pytest.mark.slow
def test_stop_strings_follow_the_evaluation():
    """One setting: a policy learns on, and is judged by, responses that end alike."""
    assert preset("ppo", "toy")["stop"] == preset("ppo", "toy_rloo")["stop"] == preset("eval", "toy")["stop"] == []
    assert preset("ppo", "paper")["stop"] == preset("eval", "default")["stop"] == ["\n\nHuman:", "\n\nAssistant:"]
    for given in ([], ["eval=default"], ["ppo=paper"], ['eval.stop=["<|end|>"]'], ["experiment=hh_cpu"]):
        made = config("respond=sample", *given)
        assert list(made.respond.stop) == list(made.ppo.stop) == list(made.eval.stop)
    assert config('ppo.stop=["x"]').ppo.stop == ["x"]


def test_a_group_that_an_arm_changes_comes_before_keys_in_it():
    """Whichever was written first: an arm of a preset may be given another group."""
    own = config()
    for changes in ({"ppo.steps": 3, "ppo": "toy_rloo"}, {"ppo": "toy_rloo", "ppo.steps": 3}):
        found = changed(own, changes)
        assert found.ppo.steps == 3 and found.ppo.advantage == "rloo"


def _loads() -> tuple[bool, bool]:
    import sys

    from omegaconf import OmegaConf as loader

    return "quick_server" in sys.modules, loader.load is quick_hydra._loaded


@pytest.mark.slow
def test_processes_that_tests_fork_compose_as_quickly(tmp_path):
    assert processes.run(_loads, folder=tmp_path) == [(True, True)]
