"""DeepSpeed's ZeRO on a CPU, for functions that `processes.run` runs on several ranks."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

# Found and not imported, which takes seconds wherever tests are collected.
NEEDED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def parts(config: dict[str, Any] | None = None) -> Any:
    """What lets transformers split all that it loads, while it is kept."""
    from transformers.integrations import HfDeepSpeedConfig

    _spare_compiling()
    return HfDeepSpeedConfig(settings(3) if config is None else config)


def accelerator(stage: int, micro: int, accumulation: int = 1, bf16: bool = False) -> Any:
    """Accelerate's, as the launcher makes it ready."""
    os.environ |= {
        "ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }  # fmt: skip
    from accelerate import Accelerator, DeepSpeedPlugin, PartialState

    _spare_compiling()
    PartialState(backend="gloo")
    config = settings(stage, micro, accumulation) | {
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
    }
    return Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))


def settings(stage: int, micro: int = 1, accumulation: int = 1) -> dict[str, Any]:
    """Small weights are split like large ones."""
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }


def _spare_compiling() -> None:
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
