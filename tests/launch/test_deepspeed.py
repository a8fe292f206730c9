"""The files that start ranks, against committed ones: a change of them must be seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from composed import config

from morlaif.batches import Microbatches
from morlaif.hardware import HardwareSettings
from morlaif.launch.deepspeed import accelerate_config, deepspeed_config

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
PRESETS = ("cpu2_zero3", "a100x8_zero2", "a100x8_zero3_lora", "a100x8_zero3_offload", "a100x8_vllm", "multinode_zero3")


def preset(name: str) -> HardwareSettings:
    return config(f"hardware={name}").hardware


def words(tree) -> list:
    if isinstance(tree, dict):
        return [word for key, value in tree.items() for word in (key, *words(value))]
    return [tree]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_deepspeed_settings_are_those_committed(name):
    made = deepspeed_config(preset(name), Microbatches(micro=2, accumulation=4), max_grad_norm=1.0)
    assert made == json.loads((GOLDEN / f"{name}.json").read_text())
    assert "auto" not in words(made) and "train_batch_size" not in made and "optimizer" not in made
    assert made["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_deepspeed_itself_accepts_them(name):
    from deepspeed.runtime.config import DeepSpeedConfig

    hardware = preset(name)
    made = deepspeed_config(hardware, Microbatches(micro=2, accumulation=4), max_grad_norm=1.0)
    read = DeepSpeedConfig(made, mesh_device=None)
    assert read.zero_config.stage == hardware.zero.stage
    assert (read.zero_config.offload_optimizer is not None) == hardware.zero.offload_optimizer


@pytest.mark.parametrize(("name", "node"), [("cpu2_zero3", 0), ("multinode_zero3", 1)])
def test_accelerate_settings_are_those_committed_and_repeat_none_of_deepspeeds(name, node):
    hardware = preset(name)
    made = accelerate_config(hardware, Path("ds.json"), node, "node0", 29500)
    assert made == yaml.safe_load((GOLDEN / f"accelerate_{name}.yaml").read_text())
    repeated = set(words(deepspeed_config(hardware, Microbatches(1, 1), 1.0))) & set(made["deepspeed_config"])
    assert not repeated
