"""Which units ranks build."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import morlaif.cli  # noqa: F401
from morlaif.cli import run_name
from morlaif.config import validate
from morlaif.launch.launcher import on_ranks
from morlaif.pipeline.plan import plan

ALL = {"sft", "respond", "pm", "weigh", "ppo", "evaluate"}


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        (["hardware=cpu2_zero3"], ALL),
        (["hardware=cpu"], set()),
        (["hardware=cpu2_zero3", "sft=none", "model=gpt2"], ALL - {"sft"}),
        (["hardware=cpu2_zero3", "respond=pairs"], ALL - {"respond"}),
        (["hardware=cpu2_zero3", "pm=toy_full"], ALL),
        (["hardware=cpu2_zero3", "pm=toy_heads"], ALL - {"pm"} | {"backbone"}),
        (["hardware=multinode_zero3"], ALL),
    ],
)
def test_stages_that_run_a_model_are_on_ranks(overrides, stages):
    OmegaConf.register_new_resolver("morlaif.run_name", lambda *, _root_: run_name(_root_), replace=True)
    with initialize_config_module("morlaif.conf", version_base="1.3"):
        made = validate(OmegaConf.to_container(compose("config", list(overrides)), resolve=True))
    assert {unit.stage for unit in plan(made).units if on_ranks(unit, made.hardware)} == stages
