"""Which units ranks build."""

from __future__ import annotations

import pytest
from composed import config

from morlaif.planning.plan import plan

ALL = {"sft", "respond", "pm", "weigh", "ppo", "evaluate"}


@pytest.mark.slow
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
    made = config(*overrides)
    assert {unit.stage.name for unit in plan(made).units if unit.on_ranks(made.hardware.ranks)} == stages
