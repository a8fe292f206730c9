"""The files that start ranks: DeepSpeed's settings and accelerate's, written out whole, from the typed config alone.

One source for each number: batches come from the stage's settings, all else from `hardware`. Nothing is "auto", and
`train_batch_size` is left to DeepSpeed to multiply out; accelerate's file repeats no key of DeepSpeed's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from morlaif.batches import Microbatches
from morlaif.hardware import HardwareSettings
from morlaif.memory.estimate import BUCKET, GATHERED

NEVER = 2**31 - 1


def deepspeed_config(hardware: HardwareSettings, microbatches: Microbatches, max_grad_norm: float) -> dict[str, Any]:
    """ds.json of one unit. `max_grad_norm` 0: the stage clips by itself."""
    return {
        "train_micro_batch_size_per_gpu": microbatches.micro,
        "gradient_accumulation_steps": microbatches.accumulation,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": hardware.dtype == "bfloat16"},
        "zero_optimization": _zero(hardware),
        # The optimizer is the stage's own, so that one rank and many ranks take the same step.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }


def _zero(hardware: HardwareSettings) -> dict[str, Any]:
    zero = hardware.zero
    pin = hardware.device == "cuda"
    config: dict[str, Any] = {
        "stage": zero.stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "overlap_comm": hardware.device == "cuda",
    }
    if zero.stage == 3:
        config |= {
            "stage3_param_persistence_threshold": zero.persistence_threshold,
            "stage3_max_live_parameters": GATHERED,
            "stage3_max_reuse_distance": GATHERED,
            "stage3_prefetch_bucket_size": BUCKET,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if zero.offload_optimizer:
        config["offload_optimizer"] = {"device": "cpu", "pin_memory": pin}
    if zero.offload_parameters:
        config["offload_param"] = {"device": "cpu", "pin_memory": pin}
    return config


def accelerate_config(hardware: HardwareSettings, ds_file: Path, node: int, address: str, port: int) -> dict[str, Any]:
    """accelerate.yaml of one node: `node` of `hardware.nodes`, meeting at `address`:`port`."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": str(ds_file),
            "deepspeed_multinode_launcher": "standard",
            "zero3_init_flag": hardware.zero.stage == 3,
        },
        "num_machines": hardware.nodes,
        "machine_rank": node,
        "num_processes": hardware.ranks,
        "main_process_ip": address,
        "main_process_port": port,
        "rdzv_backend": "static",
        "same_network": True,
        "main_training_function": "main",
        "use_cpu": False,  # true would mean accelerate's own CPU launcher, and plain data parallelism
    }
