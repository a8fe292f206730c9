"""Which engine makes the updates of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morlaif.rl.engine import Engine
from morlaif.rl.policy import ActorCritic
from morlaif.rl.settings import Learns

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_engine(models: ActorCritic, settings: Learns, accelerator: Accelerator | None = None) -> Engine:
    """The engine for this process: DeepSpeed's where the accelerator is of that type, else replicated weights."""
    if accelerator is not None and accelerator.distributed_type.value == "DEEPSPEED":
        from morlaif.rl.engine_deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(models, settings, accelerator)
    return Engine(models, settings, accelerator)
