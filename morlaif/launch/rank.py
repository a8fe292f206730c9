"""One rank: builds its part of a unit beside the others, under DeepSpeed.

    … -m morlaif.launch.rank <config.json> <units.json> <ds.json> <log prefix>

`units.json` has the folders `out` and `keep` of each unit; several are built in one go. Every rank makes the same call
of `build` or `build_together`. `morlaif.ranks` tells a stage which rank it is; only the first writes into `job.out`.
What a rank prints goes to `<log prefix>.rank-<n>.log`; events go out as JSON lines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from morlaif.config import Config
from morlaif.errors import UserError, describe
from morlaif.hardware import HardwareSettings
from morlaif.launch.processes import die_with_parent, redirect_output, take_events
from morlaif.planning.contents import Contents
from morlaif.planning.plan import plan
from morlaif.units.execute import build_here, build_together_here, make_job
from morlaif.units.store import Store


def main(config_file: str, units_file: str, ds_file: str, log_prefix: str) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed's use of torch, at each exchange
    rank = int(os.environ["RANK"])
    emit = take_events()
    redirect_output(Path(f"{log_prefix}.rank-{rank}.log"))
    try:
        config = Config.model_validate_json(Path(config_file).read_text())
        places = json.loads(Path(units_file).read_text())
        planned = plan(config, Contents.of_run(Path(config_file).parent, config.paths.store)).by_name
        units = [planned[name] for name in places]
        _zero = join(config.hardware, json.loads(Path(ds_file).read_text()))  # kept: transformers asks for it weakly

        def progress(unit: str, step: int, total: int | None, metrics: dict[str, float]) -> None:
            if rank == 0:
                emit({"kind": "progress", "unit": unit, "step": step, "total": total, "metrics": metrics})

        jobs = []
        for unit in units:
            out, keep = map(Path, places[unit.name])
            on_progress = partial(progress, unit.name)
            jobs.append(make_job(unit, Store(config.paths.store), config.hardware, out, keep, on_progress))
        alone = len(units) == 1
        ends = {units[0].name: build_here(units[0], jobs[0])} if alone else build_together_here(units, jobs)
        from morlaif.ranks import barrier

        barrier()
        if rank == 0:
            emit({"kind": "built", "ends": {name: _as_json(end) for name, end in ends.items()}})
    except BaseException as error:
        traceback.print_exc()
        mistake = isinstance(error, UserError)
        emit({"kind": "failed", "rank": rank, "error": describe(error), "user_error": mistake, "time": time.time()})
        code = 2 if mistake else 1
    else:
        code = 0
        print(_peak_memory(), file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)  # the process group's threads would hold up an interpreter that ends in order


def _peak_memory() -> str:
    """What `dry_run=true` plans, as it came out; in GB of 10^9 bytes."""
    import resource

    import torch

    line = f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.3f} GB resident"
    if torch.cuda.is_available():
        line += f", {torch.cuda.max_memory_allocated() / 1e9:.3f} GB allocated on the GPU"
    return line


def _as_json(end: Any) -> dict[str, Any]:
    if isinstance(end, Exception):
        return {"error": describe(end), "user_error": isinstance(end, UserError)}
    return {"summary": end or {}}


def join(hardware: HardwareSettings, ds: dict[str, Any]) -> Any:
    """Meet the other ranks, and let transformers split what it loads. Raises where that would not be DeepSpeed."""
    cpu = hardware.device == "cpu"
    import torch

    if not cpu and not torch.cuda.is_available():
        raise UserError("hardware.device=cuda, but this machine has no usable GPU; use hardware=cpu or cpu2_zero3")
    import deepspeed.ops
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a CPU compiles it, for 45 seconds
    wait = timedelta(seconds=hardware.timeouts.collective)
    state = PartialState(backend="gloo" if cpu else "nccl", timeout=wait)
    if state.distributed_type != DistributedType.DEEPSPEED or state.num_processes != hardware.ranks:
        raise RuntimeError(
            f"{hardware.ranks} ranks were to run under DEEPSPEED, but accelerate came up with {state.num_processes} "
            f"under {state.distributed_type.value}"
        )
    if ds["zero_optimization"]["stage"] != 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(ds)


if __name__ == "__main__":
    main(*sys.argv[1:])
